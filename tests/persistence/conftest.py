"""The same databases as the contracts run on, and empty ones for migrations."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from persistence.database import Database
from tests.contracts.conftest import clock, database, new_database, postgres, prepared, shelf

__all__ = ["clock", "database", "empty", "postgres", "prepared", "shelf"]


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without any table; every test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/empty.db"
    else:
        url = await new_database(request.getfixturevalue("postgres"))
    made = Database(url)
    yield made
    await made.close()
