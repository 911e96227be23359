"""Database: URLs as people write them, and what each connection is really set to."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from persistence import schema
from persistence.database import Database, normalised, sqlite_advice
from tests.contracts.storing import ME, Shelf, a_message, add_reply, only_postgresql, only_sqlite


async def value(database: Database, query: str, *, writing: bool) -> object:
    async with database.connect(writing=writing) as connection:
        return (await connection.execute(text(query))).scalar_one()


# ── URLs ──


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sqlite:///chat.db", "sqlite+aiosqlite:///chat.db"),
        ("sqlite:////var/chat.db", "sqlite+aiosqlite:////var/chat.db"),
        ("sqlite+pysqlite:///chat.db", "sqlite+aiosqlite:///chat.db"),
        ("postgres://host/name", "postgresql+asyncpg://host/name"),
        ("postgresql://u:p%40@host:5433/name", "postgresql+asyncpg://u:p%40@host:5433/name"),
        ("postgresql+psycopg2://host/name", "postgresql+asyncpg://host/name"),
        ("postgresql://host/name?sslmode=require", "postgresql+asyncpg://host/name?ssl=require"),
        ("postgresql://u@/name?host=/run/pg", "postgresql+asyncpg://u@/name?host=%2Frun%2Fpg"),
    ],
)
def test_usual_spellings_of_a_url_are_understood(written: str, meant: str) -> None:
    assert normalised(written).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("chat.db", "is not a database URL"),
        ("", "is not a database URL"),
        ("postgresql://host:port/name", "is not a database URL"),
        ("mysql://host/name", "names the database 'mysql'"),
        ("sqlite://", "names no SQLite file"),
        ("sqlite:///:memory:", "names no SQLite file"),
        ("sqlite:///file:chat?mode=memory&uri=true", "names no SQLite file"),
        ("sqlite://folder/chat.db", "names no SQLite file"),
        ("sqlite:///chat.db?timeout=5", "names no SQLite file"),
        ("postgresql://host/name?channel_binding=require", "has the option 'channel_binding'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Database(written)


async def test_only_sqlite_is_a_file(tmp_path: Path) -> None:
    assert Database(f"sqlite:///{tmp_path}/chat.db").file == tmp_path / "chat.db"
    assert Database("postgresql://host/name").file is None


async def test_a_new_sqlite_file_and_those_beside_it_are_their_owners_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/data/chat.db")
    await schema.upgrade(database)
    async with database.connect(writing=True) as connection:
        await connection.execute(text("CREATE TABLE t (x)"))
        await connection.commit()
        modes = await asyncio.to_thread(modes_in, tmp_path / "data")
    await database.close()
    assert modes == dict.fromkeys(("chat.db", "chat.db-shm", "chat.db-wal"), 0o600)


async def test_the_mode_that_an_operator_gave_a_sqlite_file_stays(tmp_path: Path) -> None:
    (tmp_path / "chat.db").touch(0o640)
    database = Database(f"sqlite:///{tmp_path}/chat.db")
    await schema.upgrade(database)
    await database.close()
    assert modes_in(tmp_path)["chat.db"] == 0o640


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


# ── settings of connections ──


@only_sqlite
@pytest.mark.parametrize("writing", [True, False])
async def test_sqlite_is_set_to_lose_nothing_and_to_wait(database: Database, writing: bool) -> None:
    settings = {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000, "foreign_keys": 1}
    found = {name: await value(database, f"PRAGMA {name}", writing=writing) for name in settings}
    assert found == settings


@only_sqlite
async def test_sqlite_refuses_to_write_on_reading_connections_only(database: Database) -> None:
    found = [await value(database, "PRAGMA query_only", writing=writing) for writing in (True, False)]
    assert found == [0, 1]


@only_postgresql
async def test_postgresql_reads_in_one_snapshot_and_writes_read_committed(database: Database) -> None:
    settings = {
        "transaction_isolation": ("read committed", "repeatable read"),
        "transaction_read_only": ("off", "on"),
        "synchronous_commit": ("on", "on"),
        "application_name": ("tertulia", "tertulia"),
    }
    for name, expected in settings.items():
        found = [await value(database, f"SHOW {name}", writing=writing) for writing in (True, False, True)]
        assert found == [*expected, expected[0]]


def test_an_old_sqlite_is_worth_a_word_to_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert sqlite_advice() is None
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    assert "3.51.3" in str(sqlite_advice())


# ── many at once ──


async def test_two_hundred_sends_at_once_are_all_stored(shelf: Shelf) -> None:
    conversations = [await shelf.conversation() for _ in range(20)]

    async def send(n: int) -> str:
        conversation_id = conversations[n % len(conversations)].id
        async with shelf.storage.write() as work:
            await work.keys.reserve(ME, "sendMessage", str(n), "print")
            conversation = await work.conversations.get(ME, conversation_id, lock=True)
            assert conversation is not None
            said = a_message(conversation_id, conversation.leaf_id)
            await work.messages.add(said)
            reply_id = await add_reply(work, conversation_id, said.id)
            await work.conversations.update(conversation)
            await work.keys.keep(ME, "sendMessage", str(n), {"reply_id": reply_id})
            await work.commit()
        return reply_id

    sent = await asyncio.gather(*(send(n) for n in range(200)))
    assert len(set(sent)) == 200
    async with shelf.storage.read() as work:
        assert await work.replies.queued() == 200
