"""aiosqlite with one visit to its thread per statement, where the driver as it comes makes four.

A cursor is made, executed, read and closed in the connection's own thread in one go, so what SQLAlchemy asks for
afterwards is there already. Results are whole in memory, as they are with SQLAlchemy's own cursors.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Self

import aiosqlite


def connect(file: str, **options: Any) -> aiosqlite.Connection:  # noqa: ANN401  as sqlite3.connect has them
    """To be awaited, as what `aiosqlite.connect` returns; its thread does not keep the process alive."""
    connection = OneVisitConnection(lambda: sqlite3.connect(file, **options), 64)
    connection._thread.daemon = True
    return connection


class OneVisitConnection(aiosqlite.Connection):
    def cursor(self) -> "OneVisitCursor":  # type: ignore[override]
        return OneVisitCursor(self)


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
        await self._connection._execute(self._visit, self._connection._conn.execute, statement, parameters)  # type: ignore[no-untyped-call]
        return self

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> Self:
        await self._connection._execute(self._visit, self._connection._conn.executemany, statement, parameters)  # type: ignore[no-untyped-call]
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """It was closed in its thread."""

    def _visit(self, execute: Callable[..., sqlite3.Cursor], statement: str, parameters: Sequence[Any]) -> None:
        cursor = execute(statement, parameters)
        self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
        self._rows = cursor.fetchall() if self.description else []
        cursor.close()
