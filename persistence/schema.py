"""The database's version: bring it up to date, say where it stands. The migrations are in `migrations/`."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from persistence.database import Database
from persistence.tables import metadata

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


def is_served(revision: str | None) -> bool:
    """Whether a running server may go on with that revision: its own, or one that it does not know, which is newer.

    So a deploy may migrate first and replace the servers afterwards.
    """
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision == newest_revision() or (revision is not None and revision not in known)


async def upgrade(database: Database, revision: str = "head") -> None:
    """Apply what is missing, in one transaction; of several at once each waits for the one before.

    An embedded database's folder and file are made when they are absent, the file for its owner alone: SQLite gives
    the files beside it the same mode.
    """
    if database.file is not None:
        database.file.parent.mkdir(parents=True, exist_ok=True)
        database.file.touch(0o600)
    async with database.migrating() as connection:
        await connection.run(lambda sync: command.upgrade(_config(sync), revision))
        await connection.commit()


async def downgrade(database: Database, revision: str) -> None:
    """Undo what came after a revision ("base" undoes all), in one transaction."""
    async with database.migrating() as connection:
        await connection.run(lambda sync: command.downgrade(_config(sync), revision))
        await connection.commit()


async def current_revision(database: Database) -> str | None:
    """None for an empty database."""
    async with database.connect(writing=False) as connection:
        return await connection.run(lambda sync: MigrationContext.configure(sync).get_current_revision())


async def drift(database: Database) -> list[object]:
    """What the migrated database and `tables.py` disagree on; empty when all is well."""
    async with database.connect(writing=False) as connection:
        return await connection.run(_differences)


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))
