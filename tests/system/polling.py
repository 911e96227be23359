"""Waiting for what other processes do: they ring no bell here, so it is asked for again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")
PAUSE_SECONDS = 0.05


async def until(asked: Callable[[], Awaitable[Found]], seconds: float = 60.0) -> Found:
    """The first answer that is not empty or false. Raises TimeoutError after so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await asked():
                return found
            await asyncio.sleep(PAUSE_SECONDS)
