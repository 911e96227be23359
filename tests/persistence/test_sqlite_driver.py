"""SQLite's driver: what becomes of a transaction in which something fails, and of a connection that does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, text

from domain.errors import StorageError, Unavailable
from persistence.connection import Connection
from persistence.database import Database
from persistence.sqlite_driver import OneVisitConnection
from persistence.tables import Id, tool_approvals, users
from tests.contracts.storing import BEGINNING, only_sqlite

pytestmark = only_sqlite
ADD = insert(users).values(id=bindparam("user", type_=Id), created_at=BEGINNING)
ALLOW = insert(tool_approvals).values(conversation_id=bindparam("conversation", type_=Id), tool="any")
NAMES = select(users.c.id).where(users.c.id.like("some%"))
AND_ROLL_BACK = text("INSERT OR ROLLBACK INTO users (id, created_at) SELECT id, created_at FROM users")


async def names(database: Database) -> list[str]:
    async with database.connect(writing=False) as connection:
        return [row.id for row in await connection.fetch(NAMES, {})]


async def nobody_allows(connection: Connection) -> None:
    """Deferred, and refused when it is executed: there is no such conversation."""
    await connection.send(ALLOW, {"conversation": "conv_absent"})


async def test_what_was_deferred_beside_something_that_fails_cannot_be_committed(database: Database) -> None:
    async with database.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
        await nobody_allows(connection)
        with pytest.raises(StorageError):
            await connection.fetch(NAMES, {})
        with pytest.raises(StorageError):
            await connection.commit()
    assert await names(database) == []


async def test_what_was_sent_after_something_failed_cannot_be_committed(database: Database) -> None:
    async with database.connect(writing=True) as connection:
        await nobody_allows(connection)
        with pytest.raises(StorageError):
            await connection.fetch(NAMES, {})
        await connection.send(ADD, {"user": "somebody"})
        with pytest.raises(StorageError):
            await connection.commit()
    assert await names(database) == []


async def test_a_commit_that_failed_leaves_nothing_to_commit(database: Database) -> None:
    async with database.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
        await nobody_allows(connection)
        for _ in range(2):
            with pytest.raises(StorageError):
                await connection.commit()
    assert await names(database) == []


async def add_another(connection: Connection) -> None:
    await connection.send(ADD, {"user": "some other"})
    await connection.commit()


async def look(connection: Connection) -> None:
    await connection.fetch(NAMES, {})


@pytest.mark.parametrize("next_step", [add_another, look, Connection.commit])
async def test_a_transaction_that_sqlite_ended_by_itself_does_not_begin_anew(
    database: Database, next_step: Callable[[Connection], Awaitable[None]]
) -> None:
    async with database.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
        with pytest.raises(StorageError):
            await connection.execute(AND_ROLL_BACK)
        with pytest.raises(StorageError):
            await next_step(connection)
    assert await names(database) == []


async def test_the_unit_after_one_that_failed_is_committed(database: Database) -> None:
    async with database.connect(writing=True) as connection:
        with pytest.raises(StorageError):
            await connection.execute(AND_ROLL_BACK)
    async with database.connect(writing=True) as connection:
        await add_another(connection)
    assert await names(database) == ["some other"]


async def test_the_thread_of_what_cannot_be_opened_has_said_its_last_when_that_is_known(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later the loop may be closed."""
    ends: list[asyncio.Future[Any] | None] = []

    class Watched(OneVisitConnection):
        def stop(self) -> asyncio.Future[Any] | None:
            ends.append(super().stop())
            return ends[-1]

    monkeypatch.setattr("persistence.sqlite_driver.OneVisitConnection", Watched)
    absent = Database(f"sqlite:///{database.file}/absent.db")
    with pytest.raises(Unavailable):
        async with absent.connect(writing=True):
            pass
    assert [end is not None and end.done() for end in ends] == [True]
