"""Migrations: up, down, the same as `tables.py`, all or nothing, and one at a time."""

import asyncio

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.util import CommandError
from sqlalchemy import Column, Connection, Integer, func, inspect, select, text

from domain.accounts import LOCAL_USER_ID
from domain.errors import StorageError
from persistence import schema
from persistence.database import Database
from persistence.tables import messages, metadata, replies, reply_events, users
from tests.contracts.storing import Shelf, only_sqlite
from tests.patience import PATIENCE_SECONDS


async def tables(database: Database) -> set[str]:
    async with database.connect(writing=False) as connection:
        return await connection.run(lambda sync: set(inspect(sync).get_table_names()))


async def execute(database: Database, *statements: str) -> None:
    async with database.connect(writing=True) as connection:
        for statement in statements:
            await connection.execute(text(statement))
        await connection.commit()


async def test_a_migrated_database_is_what_the_tables_say(empty: Database) -> None:
    await schema.upgrade(empty)
    assert await schema.drift(empty) == []


async def test_drift_is_seen(empty: Database) -> None:
    await schema.upgrade(empty)
    await execute(empty, "DROP INDEX ix_messages_parent_id", "ALTER TABLE messages ADD COLUMN mood TEXT")
    assert len(await schema.drift(empty)) == 2


async def test_an_empty_database_has_no_revision_and_a_migrated_one_the_newest(empty: Database) -> None:
    assert await schema.current_revision(empty) is None
    await schema.upgrade(empty)
    assert await schema.current_revision(empty) == schema.newest_revision()


async def test_down_leaves_nothing_and_up_again_brings_all_back(empty: Database) -> None:
    await schema.upgrade(empty)
    await schema.downgrade(empty, "base")
    assert await tables(empty) == {"alembic_version"}
    assert await schema.current_revision(empty) is None
    await schema.upgrade(empty)
    assert await schema.drift(empty) == []


async def test_replies_outlive_the_way_up_and_down_and_those_that_await_approval_are_queued(shelf: Shelf) -> None:
    done, waiting = await shelf.settled(), await shelf.awaiting()
    await schema.downgrade(shelf.database, "0003")
    try:
        async with shelf.database.connect(writing=False) as connection:
            query = select(replies.c.id, replies.c.status).order_by(replies.c.id)
            stored = {row.id: row.status for row in (await connection.execute(query)).all()}
            events = await connection.execute(select(func.count()).select_from(reply_events))
            assert events.scalar_one() == len(done.written) + len(waiting.written) + 2
    finally:
        await schema.upgrade(shelf.database)
    assert stored == {done.id: "COMPLETE", waiting.id: "QUEUED"}
    assert await schema.drift(shelf.database) == []
    assert (await shelf.found(done.id)).text == "Good morning"
    assert [lease.reply_id for lease in await shelf.claim()] == [waiting.id]


async def test_the_index_of_live_replies_stays_partial(empty: Database) -> None:
    """SQLite makes the whole table anew, with its indexes."""
    await schema.upgrade(empty)
    async with empty.connect(writing=False) as connection:
        indexes = await connection.run(lambda sync: inspect(sync).get_indexes("replies"))
    (live,) = [index for index in indexes if index["name"] == "ix_replies_live"]
    assert any("STREAMING" in str(option) for option in live["dialect_options"].values())


async def test_the_first_migration_makes_the_local_user(empty: Database) -> None:
    await schema.upgrade(empty)
    async with empty.connect(writing=False) as connection:
        assert list((await connection.execute(select(users.c.id))).scalars()) == [LOCAL_USER_ID]


async def test_upgrading_twice_is_harmless(empty: Database) -> None:
    await schema.upgrade(empty)
    await schema.upgrade(empty)
    assert await schema.drift(empty) == []


async def test_of_several_upgrades_at_once_one_does_the_work_and_the_others_wait(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.database.BUSY_SECONDS", int(PATIENCE_SECONDS))
    url = empty.url.render_as_string(hide_password=False)
    several = [Database(url) for _ in range(5)]
    await asyncio.gather(*(schema.upgrade(database) for database in several))
    for database in several:
        await database.close()
    assert await schema.drift(empty) == []


async def test_an_upgrade_that_fails_leaves_nothing_behind(empty: Database) -> None:
    await execute(empty, "CREATE TABLE workers (id INTEGER)")
    with pytest.raises(StorageError):
        await schema.upgrade(empty)
    assert await tables(empty) == {"workers"}
    await execute(empty, "DROP TABLE workers")
    await schema.upgrade(empty)
    assert await tables(empty) == {*metadata.tables, "alembic_version"}


async def test_a_database_of_a_newer_version_is_refused(empty: Database) -> None:
    await schema.upgrade(empty)
    await execute(empty, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(CommandError):
        await schema.upgrade(empty)


async def test_an_embedded_databases_folder_is_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("embedded") / "deep" / "down"
    database = Database(f"sqlite:///{folder}/chat.db")
    await schema.upgrade(database)
    await database.close()
    assert (folder / "chat.db").exists()


@only_sqlite
async def test_a_table_that_is_made_anew_does_not_drag_those_along_that_refer_to_it(shelf: Shelf) -> None:
    """SQLite cannot alter most of a table: Alembic copies it and drops the old one."""

    def make_anew(connection: Connection) -> None:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("conversations", recreate="always") as table:
            table.add_column(Column("mood", Integer))

    await shelf.message((await shelf.conversation()).id)
    async with shelf.database.migrating() as connection:
        await connection.run(make_anew)
        await connection.commit()
    async with shelf.database.connect(writing=False) as connection:
        assert (await connection.execute(select(func.count()).select_from(messages))).scalar_one() == 1
