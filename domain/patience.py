"""Doing what needs the database while that may be away for a while, and not too much of it at once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from domain.errors import StorageError, Unavailable
from domain.storage import UnitOfWork

Done = TypeVar("Done")
Unit = Callable[[], AbstractAsyncContextManager[UnitOfWork]]
STORAGE_PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.25
AT_ONCE = 2
"""Many replies that begin together must not take every connection from the journal."""


class Patience:
    def __init__(self) -> None:
        self._some = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, do: Callable[[UnitOfWork], Awaitable[Done]], unit: Unit) -> Done:
        """Do it in a unit of work; again and again while the database fails, for as long as the journal bears it.

        Raises StorageError or Unavailable after that.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + STORAGE_PATIENCE_SECONDS
        while True:
            try:
                async with self._some, unit() as work:
                    return await do(work)
            except (StorageError, Unavailable):
                if now() > deadline:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)
