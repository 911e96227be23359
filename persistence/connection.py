"""One connection in one transaction, as the repositories see it.

A call to the driver always goes on to its end, also when the task that made it is cancelled meanwhile: an interrupted
driver loses its connection, and SQLite's thread would go on all the same. What the driver raises becomes a
StorageError. What the dialects say differently in statements is here, so that repositories need not know which one
they talk to. Nothing here knows what is stored.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CursorResult,
    DateTime,
    Dialect,
    Executable,
    Row,
    Table,
    any_,
    bindparam,
    func,
    literal,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import DataRefused, StorageError
from persistence.tables import Instant

T = TypeVar("T")
AnyRow: TypeAlias = Row[*tuple[Any, ...]]
AnyResult: TypeAlias = CursorResult[*tuple[Any, ...]]
Insert: TypeAlias = postgresql.Insert | sqlite.Insert
Parameters: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
DRIVER_ERRORS = (SQLAlchemyError, OSError, UnicodeError, OverflowError, asyncpg.InternalClientError)
"""The last is what a connection says that was lost in the middle of a call: SQLAlchemy passes it on as it is."""
REFUSALS = (DataError, IntegrityError, UnicodeError, OverflowError)
DATA_CLASSES = ("22", "23")
"""SQLSTATE classes that are about the values: data exceptions, violated constraints (PostgreSQL, appendix A)."""


def _is_about_the_data(error: BaseException) -> bool:
    """Whether the same statement with the same values would fail again."""
    if isinstance(error, REFUSALS) or (isinstance(error, StatementError) and not isinstance(error, DBAPIError)):
        return True
    original = getattr(error, "orig", None)
    return isinstance(original, REFUSALS) or str(getattr(original, "sqlstate", None))[:2] in DATA_CLASSES


class Ready:
    """A statement that is compiled for a dialect once and for all.

    SQLAlchemy keeps compiled statements too, but to find one and to place its parameters costs it more than to send it.
    """

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql = str(compiled)
        binds = [compiled.binds[name] for name in compiled.positiontup]
        processors = [bind.type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is for bind in binds]
        constants = [bind.value for bind in binds]
        self._places = list(zip(compiled.positiontup, constants, processors, strict=True))

    def arguments(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(process(values.get(name, constant)) for name, constant, process in self._places)


def _as_it_is(value: T) -> T:
    return value


def one_of(column: ColumnElement[str], name: str, *, is_sqlite: bool) -> ColumnElement[bool]:
    """`column IN` the list that is given as `name`, for a statement that is made once."""
    if is_sqlite:
        return column.in_(bindparam(name, expanding=True, type_=column.type))
    return column == any_(bindparam(name, type_=ARRAY(column.type)))


class Connection:
    def __init__(self, connection: AsyncConnection) -> None:
        self.dialect = connection.dialect
        self.is_sqlite = self.dialect.name == "sqlite"
        self._connection = connection
        self._call: asyncio.Future[Any] | None = None

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> AnyResult:
        """With a sequence of parameters the statement is executed once for each, in order."""
        return await self._whole(self._connection.execute(statement, parameters))

    async def send(self, ready: "Ready", values: Mapping[str, Any]) -> None:
        """Execute a ready statement that gives no rows."""
        await self._whole(self._connection.exec_driver_sql(ready.sql, ready.arguments(values)))

    async def run(self, work: Callable[[sqlalchemy.Connection], T]) -> T:
        """Run code that is written for a blocking connection."""
        return await self._whole(self._connection.run_sync(work))

    async def commit(self) -> None:
        await self._whole(self._connection.commit())

    @property
    def plain(self) -> AsyncConnection:
        """What this one is made of: its errors are the driver's, and its calls end when their tasks are cancelled."""
        return self._connection

    @property
    def busy(self) -> bool:
        """A call goes on that a cancelled task has left behind."""
        return self._call is not None and not self._call.done()

    async def discard(self) -> None:
        """Take no chances with this connection: it is closed for good. Never raises."""
        with suppress(*DRIVER_ERRORS):
            await self._connection.invalidate()

    async def close(self) -> None:
        """When the last call has ended, roll back what is not committed, and give the connection back. Never raises."""
        if self._call is not None:
            await asyncio.wait([self._call])
        with suppress(*DRIVER_ERRORS):
            await self._connection.close()

    async def _whole(self, call: Coroutine[Any, Any, T]) -> T:
        self._call = asyncio.ensure_future(call)
        try:
            return await asyncio.shield(self._call)
        except DRIVER_ERRORS as error:
            kind = DataRefused if _is_about_the_data(error) else StorageError
            raise kind(type(error).__name__) from error

    # ── what the dialects say differently ──

    def insert(self, table: Table) -> Insert:
        """An INSERT that knows ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def among(self, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
        """`column IN values`; on PostgreSQL as one array, so that the statement is the same for any number of them."""
        if self.is_sqlite:
            return column.in_(values)
        return column == any_(literal(list(values), ARRAY(column.type)))

    def now(self, ago: timedelta = timedelta()) -> ColumnElement[datetime]:
        """The instant, or one before it, by the clock that all processes share: the database's, or with SQLite ours."""
        if self.is_sqlite:
            return literal(datetime.now(UTC) - ago, Instant())
        return func.clock_timestamp(type_=DateTime(timezone=True)) - ago
