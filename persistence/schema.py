"""The database's version: bring it up to date, say where it stands. The migrations are in `migrations/`."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from persistence.database import Database
from persistence.tables import metadata

T = TypeVar("T")
MIGRATIONS = Path(__file__).parent / "migrations"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def newest_revision() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def upgrade(database: Database, revision: str = "head") -> None:
    """Apply what is missing, in one transaction. An embedded database's folder is made when it is absent."""
    if database.file is not None:
        database.file.parent.mkdir(parents=True, exist_ok=True)
    await _run(database, lambda connection: command.upgrade(_config(connection), revision))


async def downgrade(database: Database, revision: str) -> None:
    await _run(database, lambda connection: command.downgrade(_config(connection), revision))


async def current_revision(database: Database) -> str | None:
    """None for an empty database."""
    return await _run(database, lambda connection: MigrationContext.configure(connection).get_current_revision())


async def drift(database: Database) -> list[object]:
    """What the migrated database and `tables.py` disagree on; empty when all is well."""
    return await _run(
        database,
        lambda connection: list(
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
        ),
    )


async def _run(database: Database, work: Callable[[Connection], T]) -> T:
    async with database.connect(writing=True) as connection:
        result = await connection.run_sync(work)
        await connection.commit()
        return result
