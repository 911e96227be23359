"""One transaction on a connection of a pool. Nothing here knows what is stored.

PostgreSQL: READ COMMITTED for writes, REPEATABLE READ and READ ONLY for reads. SQLite's connections have beginnings of
their own.
"""

import asyncio
from types import TracebackType
from typing import Any

from domain.errors import StorageError, Unavailable
from persistence import postgresql_driver
from persistence.connection import DRIVER_ERRORS, Connection, Transaction
from persistence.pool import Line, Pool
from persistence.sqlite_driver import OneVisitConnection


class Unit:
    """Rolled back unless committed. Raises Unavailable on entering, StorageError in the work."""

    __slots__ = ("_alone", "_closing", "_connection", "_line", "_pool", "_writing")

    def __init__(self, pool: Pool, closing: set[asyncio.Task[None]], *, writing: bool, alone: bool = False) -> None:
        """What a cancelled unit leaves behind is among the `closing` until it is over. For `alone` see Database."""
        self._pool = pool
        self._closing = closing
        self._writing = writing
        self._alone = alone

    async def __aenter__(self) -> Connection:
        try:
            self._line = await self._pool.take()
        except DRIVER_ERRORS as error:
            raise Unavailable from error
        self._connection = Connection(self._line.connection, self._transaction(self._line.driver))
        try:
            await self._connection.begin()
        except BaseException as error:
            await self._end()
            if isinstance(error, StorageError):
                raise Unavailable from error
            raise
        return self._connection

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """After an error in a statement without a transaction the driver may leave the server in the middle of one that
        it knows nothing of."""
        if self._alone and isinstance(error, StorageError) and not self._connection.is_sqlite:
            await self._connection.discard()
        await self._end()

    def _transaction(self, driver: Any) -> Transaction:  # noqa: ANN401  the driver's own type
        if isinstance(driver, OneVisitConnection):
            driver.alone = self._alone
            return driver
        begin = postgresql_driver.WRITING if self._writing else postgresql_driver.READING
        return postgresql_driver.PostgresqlTransaction(driver, None if self._alone else begin)

    async def _end(self) -> None:
        """Whoever was cancelled in a call does not wait for its end: the connection comes back by itself."""
        if self._connection.is_at_rest:
            await _ended(self._connection, self._line, self._pool)
            return
        closing = asyncio.create_task(_ended(self._connection, self._line, self._pool))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        if not self._connection.busy:
            await asyncio.shield(closing)


async def _ended(connection: Connection, line: Line, pool: Pool) -> None:
    await connection.end()
    await pool.give_back(line)
