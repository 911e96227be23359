"""The connections of one engine, at most so many at once, each used again by the unit after.

SQLAlchemy opens and closes them. Its own pools make a connection anew around the driver's for each unit, which costs
more than most statements do. Nothing here knows transactions.
"""

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from persistence.connection import DRIVER_ERRORS


class Line(NamedTuple):
    """A connection to the database, as SQLAlchemy has it and as its driver."""

    connection: AsyncConnection
    driver: Any
    options: object

    @property
    def is_open(self) -> bool:
        """The driver notices when a server hangs up, so nobody needs to ask the server."""
        return not (self.connection.closed or self.connection.invalidated or self.driver.is_closed())

    @property
    def is_as_it_was(self) -> bool:
        """Options that a tool sets stay on a connection for ever."""
        return self.connection.sync_connection is not None and _options(self.connection) == self.options

    async def close(self) -> None:
        with suppress(*DRIVER_ERRORS):
            await self.connection.close()


class Pool:
    def __init__(self, engine: AsyncEngine, size: int, seconds: float) -> None:
        """`engine` has no pool of its own. The seconds bound the wait for a connection while all are in use."""
        self._engine = engine
        self._seconds = seconds
        self._places = asyncio.Semaphore(size)
        self._resting: list[Line] = []
        self._closed = False

    async def take(self) -> Line:
        """One that is open, as far as its driver knows. Raises the driver's errors, and TimeoutError."""
        await self._place()
        try:
            while self._resting:
                found = self._resting.pop()
                if found.is_open:
                    return found
                await found.close()
            return await self._opened()
        except BaseException:
            self._places.release()
            raise

    async def give_back(self, line: Line) -> None:
        """One that has no transaction. Never raises."""
        try:
            if line.connection.in_transaction():  # as SQLAlchemy sees it
                with suppress(*DRIVER_ERRORS):
                    await line.connection.rollback()
            if self._closed or not line.is_open or not line.is_as_it_was:
                await line.close()
            else:
                self._resting.append(line)
        finally:
            self._places.release()

    async def close(self) -> None:
        """Those that are in use are closed when they come back."""
        self._closed = True
        while self._resting:
            await self._resting.pop().close()
        await self._engine.dispose()

    async def _opened(self) -> Line:
        connection = await self._engine.connect()
        assert connection.sync_connection is not None
        driver = connection.sync_connection.connection.driver_connection
        return Line(connection, driver, _options(connection))

    async def _place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        async with asyncio.timeout(self._seconds):
            await self._places.acquire()


def _options(connection: AsyncConnection) -> object:
    return None if connection.sync_connection is None else connection.sync_connection.get_execution_options()
