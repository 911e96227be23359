"""Engines and connections from a URL, and the few differences between the dialects: all of them are here.

SQLite: write-ahead log, `synchronous=FULL`, one writing connection that begins with BEGIN IMMEDIATE, and separate
reading connections that begin with BEGIN, so that every reading unit sees one snapshot. PostgreSQL: READ COMMITTED
for writes, REPEATABLE READ for reads. Nothing here knows what is stored.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, DateTime, event, func, literal
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from domain.errors import StorageError, Unavailable
from persistence.tables import Instant

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
SQLITE_BUSY_MS = 5_000


def normalised(url: str) -> URL:
    """The URL with an async driver: `sqlite://`, `postgres://` and `postgresql://` are all understood.

    Raises ValueError with a readable sentence for anything else.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("is not a database URL; write it like sqlite:///chat.db or postgresql://host/name") from error
    scheme = parsed.drivername.split("+")[0]
    if scheme not in DRIVERS:
        raise ValueError(f"names the database {scheme!r}; Tertulia knows sqlite:// and postgresql://")
    return parsed.set(drivername=DRIVERS[scheme])


class Database:
    """The engines of one database. `close()` when done."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = normalised(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer = _sqlite_engine(self.url, begin="BEGIN IMMEDIATE", pool_size=1)
            self._reader = _sqlite_engine(self.url, begin="BEGIN", pool_size=4)
        else:
            self._writer = create_async_engine(self.url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def file(self) -> Path | None:
        """The SQLite file, if there is one."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    @asynccontextmanager
    async def connect(self, *, writing: bool) -> AsyncIterator[AsyncConnection]:
        """One transaction, rolled back unless committed. Raises Unavailable before work, StorageError in it."""
        engine = self._writer if writing else self._reader
        try:
            connection = await engine.connect()
        except (SQLAlchemyError, OSError, TimeoutError, PoolTimeoutError) as error:
            raise Unavailable from error
        try:
            yield connection
        except (DBAPIError, ConnectionError) as error:
            raise StorageError(type(error).__name__) from error
        finally:
            await connection.close()

    def now(self, ago: timedelta = timedelta()) -> ColumnElement[datetime]:
        """The instant, or one before it, by the clock that all processes share: the database's, or with SQLite ours."""
        if self.is_sqlite:
            return literal(datetime.now(UTC) - ago, Instant())
        return func.clock_timestamp(type_=DateTime(timezone=True)) - ago

    async def close(self) -> None:
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


def _sqlite_engine(url: URL, *, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=30)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: DBAPIConnection, _record: Any) -> None:  # noqa: ANN401  SQLAlchemy's own record type
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={SQLITE_BUSY_MS}", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Any) -> None:  # noqa: ANN401  the sync face of the connection
        connection.exec_driver_sql(begin)

    return engine
