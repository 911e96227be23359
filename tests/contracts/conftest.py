"""What the storage contracts run on: an empty, migrated database of either kind, and a clock that tests set.

A database is migrated once per run; tests on SQLite get a copy of the file, tests on PostgreSQL get it emptied.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils import uuid4

from domain.accounts import LOCAL_USER_ID
from persistence import schema
from persistence.database import Database, normalised
from persistence.tables import (
    api_keys,
    conversation_events,
    conversations,
    idempotency_keys,
    rates,
    sessions,
    tasks,
    token_usage,
    users,
    workers,
)
from persistence.unit_of_work import SqlStorage
from tests.contracts.storing import SetClock, Shelf


@pytest.fixture(scope="session")
def postgres(postgres: str) -> str:
    """The server of this run; our own need not survive a power cut, which makes new databases ten times cheaper."""
    if "TEST_DATABASE_URL" not in os.environ:
        with ThreadPoolExecutor(1) as thread:  # an event loop runs in this one already
            thread.submit(asyncio.run, run_alone(postgres, "ALTER SYSTEM SET fsync = off", RELOAD)).result()
    return postgres


RELOAD = "SELECT pg_reload_conf()"


async def run_alone(url: str, *statements: str) -> None:
    """Execute statements that cannot be in a transaction."""
    engine = create_async_engine(normalised(url), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def new_database(url: str) -> str:
    """The URL of a new, empty database on the same server."""
    name = f"test_{uuid4().hex}"
    await run_alone(url, f'CREATE DATABASE "{name}"')
    return normalised(url).set(database=name).render_as_string(hide_password=False)


EMPTIED = (
    *(conversations, conversation_events, idempotency_keys, workers),
    *(sessions, api_keys, rates, token_usage, tasks),
)
"""What the local user may own, and what nobody owns; all else goes with its user."""


@dataclass
class Prepared:
    """What was migrated already in this run."""

    sqlite: Path
    postgresql: str | None = None


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("prepared") / "migrated.db")


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, prepared: Prepared, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty, migrated database; every test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        made = await _copied(prepared, tmp_path / "contract.db")
    else:
        made = await _emptied(prepared, request.getfixturevalue("postgres"))
    yield made
    await made.close()


async def _copied(prepared: Prepared, file: Path) -> Database:
    if not prepared.sqlite.exists():
        await _migrated(f"sqlite:///{prepared.sqlite}")
    shutil.copy(prepared.sqlite, file)
    return Database(f"sqlite:///{file}")


async def _emptied(prepared: Prepared, server: str) -> Database:
    if prepared.postgresql is None:
        prepared.postgresql = await new_database(server)
        await _migrated(prepared.postgresql)
    made = Database(prepared.postgresql)
    async with made.connect(writing=True) as connection:
        for table in EMPTIED:
            await connection.execute(delete(table))
        await connection.execute(delete(users).where(users.c.id != LOCAL_USER_ID))
        await connection.execute(update(users).values(event_seq=0))
        await connection.commit()
    return made


async def _migrated(url: str) -> None:
    database = Database(url)
    await schema.upgrade(database)
    await database.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def shelf(database: Database, clock: SetClock) -> Shelf:
    return Shelf(SqlStorage(database, clock), database, clock)
