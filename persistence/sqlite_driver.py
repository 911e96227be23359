"""aiosqlite with few visits to its thread, where the driver as it comes makes four for each statement.

A cursor is made, executed, read and closed in one visit. What gives no rows waits for the next visit, and is executed
there first, so a unit that writes goes there with its lookups and once more to commit. A transaction begins in the
visit that needs it. Results are whole in memory, as they are with SQLAlchemy's own cursors.

As on PostgreSQL, a transaction in which something failed cannot be committed, unless that was undone to a savepoint.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import aiosqlite

T = TypeVar("T")
Deferred = Callable[[sqlite3.Connection], object]


async def connect(file: str, **options: Any) -> aiosqlite.Connection:  # noqa: ANN401  as sqlite3.connect has them
    """Its thread keeps no process alive. When this raises, it has nothing more to say to a loop that may end."""
    connection = OneVisitConnection(lambda: sqlite3.connect(file, **options), 64)
    connection._thread.daemon = True
    try:
        return await connection
    except BaseException:
        if connection.end is not None:
            await connection.end
        raise


class OneVisitConnection(aiosqlite.Connection):
    """What is deferred fails in the visit that executes it: the next statement that gives rows, or the commit."""

    beginning = ""
    """How its transactions begin. Without it there are none, for what can be set only outside of them."""
    in_doubt = False
    alone = False
    """Whether the next visit is a unit of its own, which it commits."""
    end: "asyncio.Future[Any] | None" = None
    """What its thread says last, once it was told to stop."""
    _in_transaction = False
    _failed = False
    """Of its transaction, as its thread knows it."""

    def __init__(self, *options: Any) -> None:  # noqa: ANN401  as aiosqlite has them
        super().__init__(*options)
        self._deferred: list[Deferred] = []

    def cursor(self) -> "OneVisitCursor":  # type: ignore[override]
        return OneVisitCursor(self)

    @property
    def is_at_rest(self) -> bool:
        """Always: a rollback is not waited for."""
        return True

    def stop(self) -> "asyncio.Future[Any] | None":
        self.end = super().stop()
        return self.end

    @property
    def has_begun(self) -> bool:
        return self._in_transaction or bool(self._deferred)

    def is_closed(self) -> bool:
        """As asyncpg's."""
        return not self._running

    async def send(self, statement: str, parameters: Sequence[Any]) -> None:
        """Defer it."""
        self._deferred.append(lambda connection: connection.execute(statement, parameters))

    async def send_each(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        self._deferred.append(lambda connection: connection.executemany(statement, parameters))

    async def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        return await self.visit(lambda connection: connection.execute(statement, parameters).fetchall())

    def visit(self, work: Callable[[sqlite3.Connection], T], *, last: bool = False) -> "asyncio.Future[T]":
        """Go to the thread, in the order of the calls. Whoever stops waiting for the future does not stop the visit."""
        if not self._running or not self._connection:
            raise sqlite3.OperationalError("no active connection")
        deferred, self._deferred = self._deferred, []
        commits = last or (self.alone and bool(deferred))
        goes_on = self._in_transaction
        begins = self.beginning if not goes_on and (deferred or not self.alone) else ""
        self._in_transaction = bool(begins) or goes_on
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if commits:
            future.add_done_callback(self._committed)
        self._tx.put_nowait((future, partial(self._visit, goes_on, begins, deferred, work, commits)))
        return future

    async def commit(self) -> None:
        if self._in_transaction or self._deferred:
            await self.visit(_nothing, last=True)

    async def rollback(self) -> None:
        """Nobody waits for it: whoever comes next comes after it."""
        self._deferred = []
        if self._in_transaction and self._connection:
            self._in_transaction = False
            self._tx.put_nowait((None, self._conn.rollback))

    def _visit(
        self,
        goes_on: bool,
        begins: str,
        deferred: Sequence[Deferred],
        work: Callable[[sqlite3.Connection], T],
        commits: bool,
    ) -> T:
        """In the thread. SQLite ends a transaction by itself when it cannot go on, as on a full disk."""
        connection = self._conn
        if goes_on and not connection.in_transaction:
            raise sqlite3.OperationalError("the transaction is over")
        try:
            if begins:
                self._failed = False
                connection.execute(begins)
            for execute in deferred:
                execute(connection)
            result = work(connection)
            if commits:
                self._commit(connection)
        except BaseException:
            self._failed = True
            raise
        return result

    def _commit(self, connection: sqlite3.Connection) -> None:
        self.refuse_after_failure()
        connection.execute("COMMIT")

    def failed(self) -> None:
        """Its thread knows."""

    def refuse_after_failure(self) -> None:
        """In the thread, as PostgreSQL does it."""
        if self._failed:
            raise sqlite3.OperationalError("the transaction has failed")

    def undone(self) -> None:
        """In the thread: all since a savepoint."""
        self._failed = False

    def _committed(self, visit: "asyncio.Future[Any]") -> None:
        if not visit.cancelled() and visit.exception() is None:
            self._in_transaction = False


def _nothing(_connection: sqlite3.Connection) -> None:
    """For a visit that only executes what was deferred."""


class OneVisitCursor:
    """What SQLAlchemy's adapter uses of a cursor."""

    arraysize = 1

    def __init__(self, connection: OneVisitConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Self:
        await self._connection.visit(lambda inner: self._execute(inner, statement, parameters))
        return self

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> Self:
        await self._connection.visit(lambda connection: self._keep(connection.executemany(statement, parameters)))
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """It was closed in its thread."""

    def _keep(self, cursor: sqlite3.Cursor) -> None:
        self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
        self._rows = cursor.fetchall() if self.description else []
        cursor.close()

    def _execute(self, inner: sqlite3.Connection, statement: str, parameters: Sequence[Any]) -> None:
        if statement.startswith("SAVEPOINT"):
            self._connection.refuse_after_failure()
        self._keep(inner.execute(statement, parameters))
        if statement.startswith("ROLLBACK TO"):
            self._connection.undone()
