"""Transactions on asyncpg itself: SQLAlchemy is told that each statement commits, and so sends nothing around them.

Nothing here knows what is stored.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

WRITING = "BEGIN"
READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresqlTransaction:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", begin: str | None) -> None:
        """Without a beginning each statement is a transaction of its own."""
        self._connection = connection
        self._begin = begin
        self._open = False

    @property
    def is_at_rest(self) -> bool:
        return self._connection.is_closed() or not self._connection.is_in_transaction()

    async def begin(self) -> None:
        if self._begin is not None and not self._open:
            await self._connection.execute(self._begin)
            self._open = True

    async def send(self, sql: str, arguments: Sequence[Any]) -> None:
        await self.fetch(sql, arguments)

    async def send_each(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        await self.begin()
        await self._connection.executemany(sql, arguments)

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Iterable[Any]]:
        await self.begin()
        return await self._connection.fetch(sql, *arguments)

    async def commit(self) -> None:
        """PostgreSQL answers ROLLBACK when something has failed."""
        if self._open and await self._connection.execute("COMMIT") != "COMMIT":
            raise asyncpg.InFailedSQLTransactionError
        self._open = False

    async def rollback(self) -> None:
        if not self.is_at_rest:
            await self._connection.execute("ROLLBACK")
