"""One transaction on a connection of a pool. Nothing here knows what is stored.

PostgreSQL: READ COMMITTED for writes, REPEATABLE READ and READ ONLY for reads. SQLite's connections have beginnings of
their own.
"""

import asyncio

from domain.errors import Unavailable
from persistence import postgresql_driver
from persistence.connection import DRIVER_ERRORS, Connection, Transaction
from persistence.pool import Line, Pool
from persistence.sqlite_driver import OneVisitConnection

TRANSACTION = "transaction"
"""Where SQLAlchemy's connection keeps PostgreSQL's: its own statements come after what that has deferred."""


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
        self._connection = Connection(self._line.connection, self._transaction(self._line))
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        """Whoever was cancelled in a call does not wait for its end: the connection comes back by itself."""
        if self._connection.is_at_rest:
            await _ended(self._connection, self._line, self._pool)
            return
        closing = asyncio.create_task(_ended(self._connection, self._line, self._pool))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        if not self._connection.busy:
            await asyncio.shield(closing)

    def _transaction(self, line: Line) -> Transaction:
        if isinstance(line.driver, OneVisitConnection):
            line.driver.alone = self._alone
            return line.driver
        begin = postgresql_driver.WRITING if self._writing else postgresql_driver.READING
        transaction = postgresql_driver.PostgresqlTransaction(line.driver, None if self._alone else begin)
        line.connection.info[TRANSACTION] = transaction
        return transaction


async def _ended(connection: Connection, line: Line, pool: Pool) -> None:
    await connection.end()
    await pool.give_back(line)
