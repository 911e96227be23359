"""One connection in one transaction, as the repositories see it.

A call to the driver always goes on to its end, also when the task that made it is cancelled meanwhile: an interrupted
driver loses its connection, and SQLite's thread would go on all the same. What the driver raises becomes a
StorageError. What the dialects say differently in statements is here, so that repositories need not know which one
they talk to. Nothing here knows what is stored.
"""

import asyncio
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Protocol, TypeAlias, TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import (
    ARRAY,
    BindParameter,
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
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from domain.errors import DataRefused, StorageError
from persistence.tables import IdList, Instant
from persistence.uninterrupted import Uninterrupted

T = TypeVar("T")
AnyRow: TypeAlias = Row[*tuple[Any, ...]]
AnyResult: TypeAlias = CursorResult[*tuple[Any, ...]]
Insert: TypeAlias = postgresql.Insert | sqlite.Insert
Parameters: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
DRIVER_ERRORS = (
    *(SQLAlchemyError, OSError, UnicodeError, OverflowError, sqlite3.Error),
    *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
)
"""The last is what a connection says that was lost in the middle of a call."""
REFUSALS = (
    *(DataError, IntegrityError, UnicodeError, OverflowError),
    *(sqlite3.DataError, sqlite3.IntegrityError),
)
OUR_CLOCK = "our_clock"
DATA_CLASSES = ("22", "23")
"""SQLSTATE classes that are about the values: data exceptions, violated constraints (PostgreSQL, appendix A)."""


def _is_about_the_data(error: BaseException) -> bool:
    """Whether the same statement with the same values would fail again."""
    if isinstance(error, REFUSALS) or (isinstance(error, StatementError) and not isinstance(error, DBAPIError)):
        return True
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return True  # what asyncpg says of a value that it cannot send
    original = getattr(error, "orig", error)
    return isinstance(original, REFUSALS) or str(getattr(original, "sqlstate", None))[:2] in DATA_CLASSES


def _storage_error(error: BaseException) -> StorageError:
    return (DataRefused if _is_about_the_data(error) else StorageError)(type(error).__name__)


class Ready:
    """A statement that is compiled for a dialect once and for all.

    SQLAlchemy keeps compiled statements too, but to find one, to place its parameters and to make its result costs it
    several times what the driver needs for the statement.
    """

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql = str(compiled)
        self._names = compiled.positiontup
        binds = [compiled.binds[name] for name in self._names]
        self._own = {name: bind.value for name, bind in zip(self._names, binds, strict=True) if not bind.required}
        processors = [bind.type.dialect_impl(dialect).bind_processor(dialect) for bind in binds]
        self._processors = [(place, process) for place, process in enumerate(processors) if process is not None]
        columns = compiled._result_columns
        names = [column.keyname for column in columns]
        self._named: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]
        readers = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._readers = [(place, reader) for place, reader in enumerate(readers) if reader is not None]

    def arguments(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Raises DataRefused for what no database could store, KeyError when a parameter is missing."""
        return self._given(values)

    def arguments_of_each(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        return [self._given(row) for row in rows]

    def _given(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        if self._own:
            values = {**self._own, **values}
        given = [values[name] for name in self._names]
        try:
            for place, process in self._processors:
                given[place] = process(given[place])
        except (TypeError, ValueError) as error:
            raise DataRefused(type(error).__name__) from error
        return tuple(given)

    def rows(self, found: Iterable[Iterable[Any]]) -> list[Any]:
        """What the driver found, with the names of the columns."""
        return [self._read(row) for row in found]

    def _read(self, row: Iterable[Any]) -> Any:  # noqa: ANN401  a row
        values = list(row)
        for place, reader in self._readers:
            values[place] = reader(values[place])
        return self._named._make(values)


ready = lru_cache(maxsize=512)(Ready)
"""By the identities of the statement and the dialect: for statements that are made once."""


class Transaction(Protocol):
    """What the drivers do of a transaction, which SQLAlchemy knows nothing of. Their errors are their own."""

    @property
    def is_at_rest(self) -> bool:
        """Nothing is left to be committed or rolled back."""

    @property
    def in_doubt(self) -> bool:
        """Nobody knows what was left behind: the connection must be given up."""

    @property
    def has_begun(self) -> bool:
        """What is sent next is not its first statement."""

    def failed(self) -> None:
        """A statement of SQLAlchemy's has."""

    async def send(self, sql: str, arguments: Sequence[Any]) -> None: ...

    async def send_each(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None: ...

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Iterable[Any]]: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class Connection:
    def __init__(self, connection: AsyncConnection, transaction: Transaction) -> None:
        self.dialect = connection.dialect
        self.is_sqlite = self.dialect.name == "sqlite"
        self._connection = connection
        self._transaction = transaction
        self._call: Uninterrupted[Any] | None = None

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> AnyResult:
        """With a sequence of parameters the statement is executed once for each, in order."""
        return await self._whole(self._connection.execute(statement, parameters))

    async def send(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Execute a statement that is made once, and gives no rows, at the latest before what follows it."""
        own = ready(statement, self.dialect)
        await self._driven(self._transaction.send(own.sql, own.arguments(values)))

    async def send_each(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """The same, once for each row, in order."""
        own = ready(statement, self.dialect)
        await self._driven(self._transaction.send_each(own.sql, own.arguments_of_each(rows)))

    async def fetch(self, statement: Executable, values: Mapping[str, Any]) -> list[Any]:
        """The rows of a statement that is made once."""
        own = ready(statement, self.dialect)
        return own.rows(await self._driven(self._transaction.fetch(own.sql, own.arguments(values))))

    async def run(self, work: Callable[[sqlalchemy.Connection], T]) -> T:
        """Run code that is written for a blocking connection."""
        return await self._whole(self._connection.run_sync(work))

    @property
    def has_begun(self) -> bool:
        """Whether something was executed, or is to be, before what is sent next."""
        return self._transaction.has_begun

    async def commit(self) -> None:
        await self._driven(self._transaction.commit())

    @property
    def plain(self) -> AsyncConnection:
        """What this one is made of: its errors are the driver's, and its calls end when their tasks are cancelled."""
        return self._connection

    @property
    def busy(self) -> bool:
        """A call goes on that a cancelled task has left behind."""
        return self._call is not None and self._call.goes_on

    @property
    def is_at_rest(self) -> bool:
        """To end it nothing needs to be waited for."""
        return self._transaction.is_at_rest and not self.busy

    async def discard(self) -> None:
        """Take no chances with this connection: it is closed for good. Never raises."""
        with suppress(*DRIVER_ERRORS):
            await self._connection.invalidate()

    async def end(self) -> None:
        """When the last call has ended, roll back what is not committed. Never raises."""
        if self._call is not None and self._call.rest is not None:
            await asyncio.wait([self._call.rest])
        if self._transaction.in_doubt:
            await self.discard()
        elif not self._connection.invalidated:
            try:
                await self._transaction.rollback()
            except DRIVER_ERRORS:
                await self.discard()

    async def _driven(self, call: Coroutine[Any, Any, T]) -> T:
        """A visit to SQLite's thread ends there, whoever waits for it."""
        if not self.is_sqlite:
            return await self._whole(call)
        try:
            return await call
        except DRIVER_ERRORS as error:
            raise _storage_error(error) from error

    async def _whole(self, call: Coroutine[Any, Any, T]) -> T:
        self._call = whole = Uninterrupted(call)
        try:
            return await whole
        except DRIVER_ERRORS as error:
            self._transaction.failed()
            raise _storage_error(error) from error

    # ── what the dialects say differently ──

    def insert(self, table: Table) -> Insert:
        """An INSERT that knows ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def among(self, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
        """`column IN values`, which are ids."""
        return _is_in(column, partial(literal, list(values)), is_sqlite=self.is_sqlite)

    def now(self, ago: timedelta = timedelta()) -> ColumnElement[datetime]:
        """The instant, or one before it, by the clock that all processes share: the database's, or with SQLite ours."""
        if self.is_sqlite:
            return literal(datetime.now(UTC) - ago, Instant())
        return func.clock_timestamp(type_=DateTime(timezone=True)) - ago

    def our_clock(self) -> dict[str, object]:
        """What `shared_clock` needs to be given."""
        return {OUR_CLOCK: datetime.now(UTC)} if self.is_sqlite else {}


def shared_clock(*, is_sqlite: bool) -> ColumnElement[datetime]:
    """The instant as `Connection.now` has it, of a statement that is made once."""
    if is_sqlite:
        return bindparam(OUR_CLOCK, type_=Instant())
    return func.clock_timestamp(type_=DateTime(timezone=True))


def listed(column: ColumnElement[str], name: str, *, is_sqlite: bool) -> ColumnElement[bool]:
    """`column IN :name`, which are ids, of a statement that is made once."""
    return _is_in(column, partial(bindparam, name), is_sqlite=is_sqlite)


def _is_in(
    column: ColumnElement[str], given: Callable[..., BindParameter[Any]], *, is_sqlite: bool
) -> ColumnElement[bool]:
    """A list of any length is one parameter, so that the statement is the same for all of them."""
    if is_sqlite:
        return column.in_(select(func.json_each(given(type_=IdList())).table_valued("value").c.value))
    return column == any_(given(type_=ARRAY(column.type)))


def unnested(name: str, prefix: str = "", **types: TypeEngine[Any]) -> TableValuedAlias:
    """PostgreSQL's: arrays as a table; each parameter has the name of its column, after the prefix."""
    arrays = [bindparam(prefix + each, type_=ARRAY(kind, dimensions=1)) for each, kind in types.items()]
    columns = [sqlalchemy.column(each, kind) for each, kind in types.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=name)
