"""A server's database, opened: whose revision it must have, and what is said when it cannot be used.

Knows nothing of what is stored in it.
"""

import re
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog
from alembic.util import CommandError
from filelock import FileLock, Timeout

from domain.errors import StorageError, Unavailable
from persistence import schema
from persistence.database import Database, sqlite_advice
from tertulia.settings import Settings, SettingsError

BACKGROUND_CONNECTIONS = 5
BACKGROUND_SECONDS = 10.0
"""Longer waits would outlast the lease."""
log = structlog.get_logger("tertulia")


async def open_database(settings: Settings, stack: AsyncExitStack) -> Database:
    database = Database(
        settings.database_url,
        pool_size=settings.database_pool_size,
        pool_seconds=settings.database_pool_timeout,
        statement_seconds=settings.database_statement_timeout,
    )
    stack.push_async_callback(database.close)
    if database.is_sqlite and not settings.worker:
        raise SettingsError(
            "TERTULIA_WORKER is false, but SQLite serves one process at a time: nobody would make replies. Let this "
            "server make them, or use PostgreSQL for several."
        )
    with usable_database():
        if database.file is not None:
            database.file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_server(database.file))
            if (advice := sqlite_advice()) is not None:
                log.warning("this Python's SQLite is old", advice=advice)
            await schema.upgrade(database)
        else:
            await check_revision(database)
    return database


async def check_revision(database: Database) -> None:
    """Raises SettingsError when the database, which others may be using, has to be migrated by whoever runs it."""
    if (revision := await schema.current_revision(database)) != schema.newest_revision():
        raise SettingsError(
            f"The database that DATABASE_URL names is at revision {revision or 'none'}, but this version needs "
            f"{schema.newest_revision()}; run `tertulia migrate` first."
        )


@contextmanager
def usable_database() -> Iterator[None]:
    """Turn whatever keeps a command or the start of a server from using the database into a SettingsError."""
    try:
        yield
    except (Unavailable, StorageError, CommandError, OSError) as error:
        raise SettingsError(f"The database that DATABASE_URL names cannot be used: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """One line of what the driver or the system says, without SQL and without values."""
    cause: BaseException = error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror if cause.filename is None else f"{cause.strerror}: {cause.filename}"
    line = next(iter(str(cause).splitlines()), "") or type(cause).__name__
    return re.sub(r"^<class '[^']*'>: ", "", line).rstrip(".")


def only_server(file: Path) -> FileLock:
    """The lock that makes this process the only server on a SQLite file. Raises SettingsError when there is one."""
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingsError(
            f"Another server already uses {file}: SQLite serves one at a time. Stop that one, name another file in "
            "DATABASE_URL, or use PostgreSQL for several."
        ) from error
    return lock


def background_database(settings: Settings, database: Database, stack: AsyncExitStack) -> Database:
    """What keeps replies going has connections of its own on a server, so that no flood of requests starves it."""
    if database.is_sqlite:
        return database
    seconds = min(BACKGROUND_SECONDS, settings.database_statement_timeout)
    own = Database(
        settings.database_url, pool_size=BACKGROUND_CONNECTIONS, pool_seconds=seconds, statement_seconds=seconds
    )
    stack.push_async_callback(own.close)
    return own
