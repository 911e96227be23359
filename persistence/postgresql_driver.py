"""Transactions on asyncpg itself: SQLAlchemy is told that each statement commits, and so sends nothing around them.

What gives no rows waits until something that does, or the commit, is sent. A transaction begins with its first
statement; if that is all there is to commit, it commits by itself. A last statement without parameters goes out in
the message of the COMMIT: what it locks is held over no round trip. Nothing here knows what is stored.
"""

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import asyncpg

T = TypeVar("T")
WRITING = "BEGIN"
READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresqlTransaction:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", begin: str | None) -> None:
        """Without a beginning each statement is a transaction of its own."""
        self._connection = connection
        self._begin = begin
        self._open = False
        self._deferred: list[tuple[str, Sequence[Any]]] = []
        self.in_doubt = False
        """After an error outside of a transaction the driver may leave the server in the middle of one that it knows
        nothing of."""

    @property
    def is_at_rest(self) -> bool:
        return not self.in_doubt and (self._connection.is_closed() or not self._connection.is_in_transaction())

    @property
    def has_begun(self) -> bool:
        return self._open or bool(self._deferred)

    def failed(self) -> None:
        self.in_doubt = self.in_doubt or not self._open

    async def begin(self) -> None:
        """Unless it has begun. What was deferred is executed."""
        if self._begin is not None and not self._open:
            await self._outside(self._connection.execute(self._begin))
            self._open = True
        deferred, self._deferred = self._deferred, []
        for sql, arguments in deferred:
            await self._fetched(sql, arguments)

    async def send(self, sql: str, arguments: Sequence[Any]) -> None:
        self._deferred.append((sql, arguments))

    async def send_each(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        self._deferred.extend((sql, each) for each in arguments)

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Iterable[Any]]:
        await self.begin()
        return await self._fetched(sql, arguments)

    async def commit(self) -> None:
        """PostgreSQL answers ROLLBACK when something has failed."""
        script = "COMMIT"
        if len(self._deferred) == 1 and not self._open:
            await self._fetched(*self._deferred.pop())
        elif self._deferred:
            if not self._deferred[-1][1]:
                script = f"{self._deferred.pop()[0]}; COMMIT"
            await self.begin()
        if self._open and await self._connection.execute(script) != "COMMIT":
            raise asyncpg.InFailedSQLTransactionError
        self._open = False

    async def rollback(self) -> None:
        self._deferred = []
        if not self.is_at_rest:
            await self._connection.execute("ROLLBACK")

    async def _fetched(self, sql: str, arguments: Sequence[Any]) -> Sequence[Iterable[Any]]:
        call = self._connection.fetch(sql, *arguments)
        return await (call if self._open else self._outside(call))

    async def _outside(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            return await call
        except BaseException:
            self.in_doubt = True
            raise
