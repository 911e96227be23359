"""Engines from a URL, and transactions from an engine.

SQLite: write-ahead log, `synchronous=FULL`, one writing connection that begins with BEGIN IMMEDIATE, and separate
connections that only read and begin with BEGIN, so that every reading unit sees one snapshot. PostgreSQL: READ
COMMITTED for writes, REPEATABLE READ and READ ONLY for reads. Nothing here knows what is stored.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from persistence import sqlite_driver
from persistence.connection import Connection
from persistence.pool import Pool
from persistence.unit import TRANSACTION, Unit

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
SERVER_OPTIONS = {"host", "port", "ssl"}
SOUND_SQLITE = (3, 51, 3)
SQLITE_READERS = 4
UNDO_IN_MEMORY = "temp_store=MEMORY"
"""What undoes a statement that fails halfway is a copy of each page it changes: as a file that was a third of the
system's work for a flush."""
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
            self._writer = Pool(_sqlite(self.url, "BEGIN IMMEDIATE", UNDO_IN_MEMORY), 1, pool_seconds)
            self._reader = Pool(_sqlite(self.url, "BEGIN", "query_only=ON"), SQLITE_READERS, pool_seconds)
        else:
            self._writer = self._reader = Pool(_postgresql(self.url, statement_seconds), pool_size, pool_seconds)

    @property
    def file(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    def connect(self, *, writing: bool, alone: bool = False) -> "Unit":
        """One transaction, rolled back unless committed. Raises Unavailable where there is no connection to be had,
        StorageError in the work, to which the beginning of the transaction belongs.

        `alone` promises that it is one statement that gives rows, after any that give none on SQLite: it is committed
        in the same round trip.
        """
        return Unit(self._writer if writing else self._reader, self._closing, writing=writing, alone=alone)

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[Connection]:
        """A transaction for changing the schema: one at a time, without a time limit for statements.

        SQLite does not look at foreign keys in it: tables that must be made anew there would drag others along.
        """
        engine = _sqlite(self.url, "BEGIN IMMEDIATE", "foreign_keys=OFF") if self.is_sqlite else _postgresql(self.url)
        alone = select(1) if self.is_sqlite else select(func.pg_advisory_xact_lock(MIGRATION_LOCK))
        pool = Pool(engine, 1, CONNECT_SECONDS)
        try:
            async with Unit(pool, self._closing, writing=True) as connection:
                await connection.execute(alone)
                yield connection
        finally:
            await pool.close()

    async def close(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing, timeout=BUSY_SECONDS)
        await self._writer.close()
        await self._reader.close()


def _engine(url: URL, **options: Any) -> AsyncEngine:  # noqa: ANN401  SQLAlchemy's own options
    """JSON is written as it reads, and what is no JSON is refused by SQLite as PostgreSQL refuses it."""
    to_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    return create_async_engine(url, poolclass=NullPool, pool_reset_on_return=None, json_serializer=to_json, **options)


def _sqlite(url: URL, begin: str, *pragmas: str) -> AsyncEngine:
    engine = _engine(url, connect_args={"async_creator_fn": sqlite_driver.connect})
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


def _postgresql(url: URL, statement_seconds: float | None = None) -> AsyncEngine:
    limits = {"timeout": CONNECT_SECONDS, "command_timeout": statement_seconds}
    named = {"server_settings": {"application_name": "tertulia"}}
    engine = _engine(url, connect_args=limits | named, isolation_level="AUTOCOMMIT")
    if statement_seconds is not None:
        event.listen(engine.sync_engine, "connect", _give_up_what_nobody_ends)

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def begin(connection: Any, *_: object) -> None:  # noqa: ANN401  the driver's own type
        if TRANSACTION in connection.info:
            await_only(connection.info[TRANSACTION].begin())

    return engine
