"""The connections of one engine, at most so many at once, each used again by the unit after.

SQLAlchemy opens and closes them. Its own pools make a connection anew around the driver's for each unit, which costs
more than most statements do. Nothing here knows transactions.
"""

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from persistence.connection import DRIVER_ERRORS


class Pool:
    def __init__(self, engine: AsyncEngine, size: int, seconds: float) -> None:
        """`engine` has no pool of its own. The seconds bound the wait for a connection while all are in use."""
        self._engine = engine
        self._seconds = seconds
        self._places = asyncio.Semaphore(size)
        self._resting: list[AsyncConnection] = []
        self._closed = False

    async def take(self) -> AsyncConnection:
        """One that is open, as far as its driver knows. Raises the driver's errors, and TimeoutError."""
        await self._place()
        try:
            while self._resting:
                found = self._resting.pop()
                if _is_open(found):
                    return found
                await _close(found)
            return await self._engine.connect()
        except BaseException:
            self._places.release()
            raise

    async def give_back(self, connection: AsyncConnection) -> None:
        """One that has no transaction. Never raises."""
        try:
            if connection.in_transaction():  # as SQLAlchemy sees it
                with suppress(*DRIVER_ERRORS):
                    await connection.rollback()
            if self._closed or not _is_open(connection):
                await _close(connection)
            else:
                self._resting.append(connection)
        finally:
            self._places.release()

    async def close(self) -> None:
        """Those that are in use are closed when they come back."""
        self._closed = True
        while self._resting:
            await _close(self._resting.pop())
        await self._engine.dispose()

    async def _place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        async with asyncio.timeout(self._seconds):
            await self._places.acquire()


def driver_of(connection: AsyncConnection) -> Any:  # noqa: ANN401  the driver's own type
    assert connection.sync_connection is not None
    return connection.sync_connection.connection.driver_connection


def _is_open(connection: AsyncConnection) -> bool:
    """The driver notices when a server hangs up, so nobody needs to ask the server."""
    return not (connection.closed or connection.invalidated or driver_of(connection).is_closed())


async def _close(connection: AsyncConnection) -> None:
    with suppress(*DRIVER_ERRORS):
        await connection.close()
