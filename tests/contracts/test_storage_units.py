"""The contract of units of work, on every database: all or nothing, one snapshot, and errors that can be told apart."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from domain.conversations import MessagePart, PageRequest, PartKind
from domain.errors import DataRefused, NotFound, StorageError, Unavailable
from domain.replies import Usage
from domain.storage import Storage
from persistence.database import Database, normalised
from persistence.unit_of_work import SqlStorage, SqlUnitOfWork
from tests.contracts.storing import ME, SetClock, Shelf, a_conversation, a_message


async def count(storage: Storage) -> int:
    async with storage.read() as work:
        return await work.conversations.count(ME)


@asynccontextmanager
async def opened(url: str, **limits: float) -> AsyncIterator[Storage]:
    database = Database(url, **limits)  # type: ignore[arg-type]
    yield SqlStorage(database, SetClock())
    await database.close()


# ── all or nothing ──


async def test_what_was_not_committed_is_rolled_back(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.conversations.add(a_conversation())
    assert await count(shelf.storage) == 0


async def test_an_error_in_the_middle_rolls_back_and_goes_on_to_the_caller(shelf: Shelf) -> None:
    async def unit() -> None:
        async with shelf.storage.write() as work:
            await work.conversations.add(a_conversation())
            raise NotFound("conversation", "conv_1")

    with pytest.raises(NotFound):
        await unit()
    assert await count(shelf.storage) == 0


async def test_what_was_committed_stays_whatever_comes_after(shelf: Shelf) -> None:
    async def unit() -> None:
        async with shelf.storage.write() as work:
            await work.conversations.add(a_conversation())
            await work.commit()
            await work.conversations.add(a_conversation())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await unit()
    assert await count(shelf.storage) == 1


async def test_what_is_refused_at_the_commit_rolls_back_all_and_holds_nobody_up(shelf: Shelf) -> None:
    """What is spent is stored there, and nobody has this user."""

    async def unit() -> None:
        async with shelf.storage.write() as work:
            await work.conversations.add(a_conversation())
            assert isinstance(work, SqlUnitOfWork)
            work.budgets.spend("user_nobody", Usage(1, 1))
            await work.commit()

    with pytest.raises(DataRefused):
        await unit()
    assert await count(shelf.storage) == 0
    await shelf.conversation()


async def test_a_unit_in_which_something_failed_cannot_be_committed(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.conversations.add(a_conversation())
        with pytest.raises(DataRefused):
            await work.messages.add(a_message("conv_absent"))
        with pytest.raises(StorageError):
            await work.commit()
    assert await count(shelf.storage) == 0


async def test_what_failed_and_was_undone_to_a_savepoint_does_not_keep_the_rest_from_its_commit(shelf: Shelf) -> None:
    async with SqlStorage(shelf.database, shelf.clock).write() as work:
        await work.conversations.add(a_conversation())
        with pytest.raises(IntegrityError):
            async with work.connection.begin_nested():
                await work.connection.execute(text("INSERT INTO users (id) VALUES ('nobody')"))
        await work.commit()
    assert await count(shelf.storage) == 1


async def test_options_that_a_tool_has_set_on_its_connection_are_not_the_next_ones(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        assert isinstance(work, SqlUnitOfWork)
        await work.connection.execution_options(tool="mine")
    async with shelf.storage.write() as work:
        assert isinstance(work, SqlUnitOfWork)
        assert "tool" not in work.connection.sync_connection.get_execution_options()  # type: ignore[union-attr]


async def test_a_unit_that_did_nothing_may_be_committed(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.commit()


# ── one snapshot ──


async def test_a_reading_unit_sees_one_snapshot_while_others_commit(shelf: Shelf) -> None:
    await shelf.conversation()
    async with shelf.storage.read() as work:
        assert await work.conversations.count(ME) == 1
        await shelf.conversation()
        assert await work.conversations.count(ME) == 1
        assert len((await work.conversations.page(ME, PageRequest(first=5))).items) == 1
    assert await count(shelf.storage) == 2


async def test_nobody_sees_what_is_not_committed(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.conversations.add(a_conversation())
        assert await count(shelf.storage) == 0


async def test_a_reading_unit_cannot_write(shelf: Shelf) -> None:
    with pytest.raises(StorageError):
        async with shelf.storage.read() as work:
            await work.conversations.add(a_conversation())
    async with shelf.storage.write() as work:
        await work.conversations.add(a_conversation())
        await work.commit()


# ── errors ──


async def test_a_statement_that_fails_is_a_storage_error_and_the_next_unit_works(shelf: Shelf) -> None:
    with pytest.raises(StorageError):
        await shelf.message("conv_absent")
    await shelf.conversation()


@pytest.mark.parametrize(
    "changes",
    [
        {"conversation_id": "conv_absent"},
        {"parent_id": "msg_absent"},
        {"token_count": 2**70},
        {"metadata": {"number": float("nan")}},
        {"parts": (MessagePart(0, PartKind.TEXT, "\ud800"),)},
        {"created_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_content_that_would_be_refused_again_is_told_apart(shelf: Shelf, changes: dict[str, Any]) -> None:
    values = {"conversation_id": (await shelf.conversation()).id} | changes
    with pytest.raises(DataRefused):
        await shelf.message(**values)


async def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (
        f"sqlite:///{tmp_path}/absent/chat.db",
        f"sqlite:///{tmp_path}/file/chat.db",
        "postgresql://127.0.0.1:1/nothing",
        f"postgresql:///nothing?host={tmp_path}",
    ):
        async with opened(url) as storage:
            for unit in (storage.read, storage.write):
                with pytest.raises(Unavailable):
                    async with unit():
                        pass


async def test_a_server_without_the_database_is_unavailable(postgres: str) -> None:
    absent = normalised(postgres).set(database="absent").render_as_string(hide_password=False)
    async with opened(absent) as storage:
        with pytest.raises(Unavailable):
            async with storage.read():
                pass


async def test_when_all_connections_are_taken_the_next_unit_is_unavailable_and_later_ones_work(
    database: Database,
) -> None:
    url = database.url.render_as_string(hide_password=False)
    async with opened(url, pool_size=1, pool_seconds=0.01) as storage:
        async with storage.write():
            with pytest.raises(Unavailable):
                async with storage.write():
                    pass
        assert await count(storage) == 0


# ── cancellation ──


async def test_a_cancelled_unit_is_rolled_back_and_holds_nobody_up(shelf: Shelf) -> None:
    begun = asyncio.Event()

    async def unit() -> None:
        async with shelf.storage.write() as work:
            await work.conversations.add(a_conversation())
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(unit())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await shelf.conversation()
    assert await count(shelf.storage) == 1


async def test_units_may_be_cancelled_at_any_moment_without_losing_a_connection(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    url = database.url.render_as_string(hide_password=False)
    chance = random.Random(7)
    async with opened(url, pool_size=2) as storage:

        async def unit() -> None:
            async with storage.write() as work:
                for _ in range(3):
                    await work.conversations.add(a_conversation())
                await work.commit()

        await unit()
        for _ in range(60):
            tasks = [asyncio.create_task(unit()) for _ in range(4)]
            for _ in range(chance.randrange(25)):
                await count(storage) if chance.random() < 0.1 else await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await unit()
        assert await count(storage) % 3 == 0
    assert caplog.records == []


async def test_a_cancelled_task_does_not_wait_for_the_database(shelf: Shelf) -> None:
    """Its statement waits for a lock; the connection comes back when that is over."""
    conversation = await shelf.conversation()
    async with shelf.storage.write() as holding:
        await holding.conversations.get(ME, conversation.id, lock=True)

        async def wait() -> None:
            async with shelf.storage.write() as work:
                await work.conversations.get(ME, conversation.id, lock=True)

        waiting = asyncio.create_task(wait())
        await shelf.somebody_waits()
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        assert waiting.cancelled()
    await shelf.conversation()


# ── tables that are not ours ──


async def test_what_is_written_to_other_tables_is_committed_with_the_unit_or_not_at_all(shelf: Shelf) -> None:
    async with SqlStorage(shelf.database, shelf.clock).write() as work:
        await work.connection.execute(text("CREATE TABLE notes (note TEXT)"))
        await work.commit()
    try:
        for note, kept in (("kept", True), ("lost", False)):
            async with SqlStorage(shelf.database, shelf.clock).write() as work:
                await work.connection.execute(text("INSERT INTO notes VALUES (:note)"), {"note": note})
                if kept:
                    await work.commit()
        async with SqlStorage(shelf.database, shelf.clock).read() as work:
            notes = (await work.connection.execute(text("SELECT note FROM notes"))).scalars().all()
        assert notes == ["kept"]
    finally:
        async with SqlStorage(shelf.database, shelf.clock).write() as work:
            await work.connection.execute(text("DROP TABLE notes"))
            await work.commit()


async def test_a_statement_on_other_tables_may_be_cancelled_at_any_moment(database: Database) -> None:
    """It costs its connection, and nobody else anything."""
    url = database.url.render_as_string(hide_password=False)
    chance = random.Random(7)
    async with opened(url, pool_size=2) as storage:

        async def unit() -> None:
            async with storage.write() as work:
                assert isinstance(work, SqlUnitOfWork)
                await work.conversations.add(a_conversation())
                for _ in range(3):
                    await work.connection.execute(text("UPDATE users SET display_name = display_name"))
                await work.commit()

        for _ in range(30):
            tasks = [asyncio.create_task(unit()) for _ in range(4)]
            for _ in range(chance.randrange(25)):
                await count(storage) if chance.random() < 0.1 else await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await unit()
