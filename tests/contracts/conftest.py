"""What the storage contracts run on: an empty database of either kind and a clock that tests set."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from persistence.database import Database, normalised
from persistence.unit_of_work import SqlStorage
from tests.contracts.storing import SetClock, Shelf


@pytest.fixture(scope="session")
def postgres(postgres: str) -> str:
    """The server of this run; our own need not survive a power cut, which makes new databases ten times cheaper."""
    if "TEST_DATABASE_URL" not in os.environ:
        with ThreadPoolExecutor(1) as thread:  # an event loop runs in this one already
            thread.submit(asyncio.run, _careless(postgres)).result()
    return postgres


async def _careless(url: str) -> None:
    engine = create_async_engine(normalised(url), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
            await connection.execute(text(statement))
    await engine.dispose()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def shelf(database: Database, clock: SetClock) -> Shelf:
    return Shelf(SqlStorage(database, clock), database, clock)
