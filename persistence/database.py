"""Engines from a URL, and transactions from an engine.

SQLite: write-ahead log, `synchronous=FULL`, one writing connection that begins with BEGIN IMMEDIATE, and separate
connections that only read and begin with BEGIN, so that every reading unit sees one snapshot. PostgreSQL: READ
COMMITTED for writes, REPEATABLE READ and READ ONLY for reads. Nothing here knows what is stored.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from domain.errors import StorageError, Unavailable
from persistence import postgresql_driver, sqlite_driver
from persistence.connection import DRIVER_ERRORS, Connection, Transaction

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
SERVER_OPTIONS = {"host", "port", "ssl"}
SOUND_SQLITE = (3, 51, 3)
BUSY_SECONDS = 5
CONNECT_SECONDS = 10
IDLE_SECONDS = 5
"""Half a lease. No unit of work waits for anything but the database."""
MIGRATION_LOCK = 0x7E27
"""Any number that no other program locks in the same database."""


def normalised(url: str) -> URL:
    """The URL with an async driver: `sqlite://`, `postgres://` and `postgresql://` are all understood.

    Raises ValueError with a readable sentence for anything else.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ValueError("is not a database URL; write it like sqlite:///chat.db or postgresql://host/name") from error
    scheme = parsed.drivername.split("+")[0]
    if scheme not in DRIVERS:
        raise ValueError(f"names the database {scheme!r}; Tertulia knows sqlite:// and postgresql://")
    parsed = parsed.set(drivername=DRIVERS[scheme])
    return _to_a_file(parsed) if scheme == "sqlite" else _to_a_server(parsed)


def _to_a_file(url: URL) -> URL:
    if url.host or url.query or not url.database or url.database.startswith((":memory:", "file:")):
        raise ValueError("names no SQLite file; write sqlite:///chat.db, or sqlite:////folder/chat.db from the root")
    return url


def _to_a_server(url: URL) -> URL:
    """`sslmode` is what other clients call asyncpg's `ssl`."""
    if "@" in (url.host or ""):  # the rest of the password, which would then be shown and looked up as a host
        raise ValueError("has an @ in the user's name or the password; write it as %40 there")
    options = {("ssl" if name == "sslmode" else name): value for name, value in url.query.items()}
    if unknown := sorted(options.keys() - SERVER_OPTIONS):
        raise ValueError(f"has the option {unknown[0]!r}; only host, port and sslmode are understood")
    return url.set(query=options)


def sqlite_advice() -> str | None:
    """What an operator should know of this SQLite; None when there is nothing to say."""
    if sqlite3.sqlite_version_info >= SOUND_SQLITE:
        return None
    sound = ".".join(map(str, SOUND_SQLITE))
    return (
        f"SQLite {sqlite3.sqlite_version} can, very rarely, damage a database that two processes use at once; "
        f"{sound} cannot. Use a Python with a newer SQLite, or PostgreSQL."
    )


class Database:
    """The engines of one database. `close()` when done."""

    def __init__(
        self, url: str, *, pool_size: int = 10, pool_seconds: float = 30, statement_seconds: float = 30
    ) -> None:
        """`pool_size` is for PostgreSQL. The seconds bound the waits for a free connection and for an answer."""
        self.url = normalised(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._closing: set[asyncio.Task[None]] = set()
        if self.is_sqlite:
            self._writer = _sqlite(self.url, "BEGIN IMMEDIATE", pool_size=1, pool_timeout=pool_seconds)
            self._reader = _sqlite(self.url, "BEGIN", "query_only=ON", pool_size=4, pool_timeout=pool_seconds)
        else:
            self._writer = _postgresql(self.url, statement_seconds, pool_size=pool_size, pool_timeout=pool_seconds)
            self._reader = self._writer

    @property
    def file(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    def connect(self, *, writing: bool, alone: bool = False) -> AbstractAsyncContextManager[Connection]:
        """One transaction, rolled back unless committed. Raises Unavailable before work, StorageError in it.

        `alone` promises that it is one statement that gives rows, after any that give none on SQLite: it is committed
        in the same round trip.
        """
        if alone and not self.is_sqlite:
            return self._statement()
        begin = postgresql_driver.WRITING if writing else postgresql_driver.READING
        return self._transaction(self._writer if writing else self._reader, begin, alone=alone)

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[Connection]:
        """A transaction for changing the schema: one at a time, without a time limit for statements.

        SQLite does not look at foreign keys in it: tables that must be made anew there would drag others along.
        """
        engine = _sqlite(self.url, "BEGIN IMMEDIATE", "foreign_keys=OFF") if self.is_sqlite else _postgresql(self.url)
        alone = select(1) if self.is_sqlite else select(func.pg_advisory_xact_lock(MIGRATION_LOCK))
        try:
            async with self._transaction(engine) as connection:
                await connection.execute(alone)
                yield connection
        finally:
            await engine.dispose()

    async def close(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing, timeout=BUSY_SECONDS)
        await self._writer.dispose()
        await self._reader.dispose()

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine, begin: str | None = postgresql_driver.WRITING, *, alone: bool = False
    ) -> AsyncIterator[Connection]:
        try:
            found = await engine.connect()
        except DRIVER_ERRORS as error:
            raise Unavailable from error
        connection = Connection(found, self._transaction_on(found, begin, alone=alone))
        try:
            await self._begin(connection)
            yield connection
        finally:
            await self._give_back(connection)

    @staticmethod
    async def _begin(connection: Connection) -> None:
        try:
            await connection.begin()
        except StorageError as error:
            raise Unavailable from error

    def _transaction_on(self, connection: AsyncConnection, begin: str | None, *, alone: bool) -> Transaction:
        assert connection.sync_connection is not None
        driver: Any = connection.sync_connection.connection.driver_connection
        if not self.is_sqlite:
            return postgresql_driver.PostgresqlTransaction(driver, begin)
        assert isinstance(driver, sqlite_driver.OneVisitConnection)
        driver.alone = alone
        return driver

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[Connection]:
        """After an error the driver may leave the server in the middle of a transaction that it knows nothing of."""
        async with self._transaction(self._writer, None) as connection:
            try:
                yield connection
            except StorageError:
                await connection.discard()
                raise

    async def _give_back(self, connection: Connection) -> None:
        """Whoever was cancelled in a call does not wait for its end: the connection comes back by itself."""
        if connection.is_at_rest:
            await connection.close()
            return
        closing = asyncio.create_task(connection.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        if not connection.busy:
            await asyncio.shield(closing)


def _engine(url: URL, **options: Any) -> AsyncEngine:  # noqa: ANN401  SQLAlchemy's own options
    """JSON is written as it reads, and what is no JSON is refused by SQLite as PostgreSQL refuses it."""
    to_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    return create_async_engine(url, max_overflow=0, pool_reset_on_return=None, json_serializer=to_json, **options)


def _sqlite(url: URL, begin: str, *pragmas: str, pool_size: int = 1, pool_timeout: float = 30) -> AsyncEngine:
    own = {"async_creator_fn": sqlite_driver.connect}
    engine = _engine(url, pool_size=pool_size, pool_timeout=pool_timeout, connect_args=own)
    always = (f"busy_timeout={BUSY_SECONDS * 1000}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:  # noqa: ANN401  the driver's own type
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in always + pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        connection.driver_connection.beginning = begin

    return engine


def _give_up_what_nobody_ends(connection: Any, _record: Any) -> None:  # noqa: ANN401  the driver's own type
    """A process that is frozen in the middle of a transaction must not keep its locks from those who take over.

    Set by a statement, as PgBouncer refuses it as a parameter of the start.
    """
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    cursor.close()
    connection.commit()


def _postgresql(url: URL, statement_seconds: float | None = None, **pool: float) -> AsyncEngine:
    limits = {"timeout": CONNECT_SECONDS, "command_timeout": statement_seconds}
    named = {"server_settings": {"application_name": "tertulia"}}
    engine = _engine(url, connect_args=limits | named, isolation_level="AUTOCOMMIT", **pool)
    if statement_seconds is not None:
        event.listen(engine.sync_engine, "connect", _give_up_what_nobody_ends)

    @event.listens_for(engine.sync_engine, "checkout")
    def still_open(connection: Any, _record: Any, _proxy: Any) -> None:  # noqa: ANN401  the driver's own type
        """The driver notices when the server hangs up, so nobody needs to ask the server each time."""
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    return engine
