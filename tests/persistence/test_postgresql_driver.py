"""PostgreSQL's driver: what really goes to the server around statements."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, literal_column, select

from domain.errors import DataRefused
from persistence.connection import Connection
from persistence.database import Database
from persistence.tables import Id, users
from tests.contracts.storing import BEGINNING, only_postgresql

pytestmark = only_postgresql
ADD = insert(users).values(id=bindparam("user", type_=Id), created_at=BEGINNING)
COPY = insert(users).from_select(
    ["id", "created_at"],
    select(users.c.id + literal_column("' else'"), users.c.created_at).where(
        users.c.id == literal_column("'somebody'")
    ),
)
"""Without parameters."""
NAMES = select(users.c.id).where(users.c.id.like("some%"))


@pytest.fixture
async def single(database: Database) -> AsyncIterator[Database]:
    """With one connection, which every unit gets."""
    made = Database(database.url.render_as_string(hide_password=False), pool_size=1)
    yield made
    await made.close()


@asynccontextmanager
async def verbs(connection: Connection) -> AsyncIterator[list[str]]:
    """The first words of what is sent, which the driver tells in the loop's next turn."""
    sent: list[str] = []
    assert connection.plain.sync_connection is not None
    driver: Any = connection.plain.sync_connection.connection.driver_connection
    with driver.query_logger(lambda query: sent.append(query.query.split()[0])):
        yield sent
    await asyncio.sleep(0)


async def names(database: Database) -> list[str]:
    async with database.connect(writing=False, alone=True) as connection:
        return [row.id for row in await connection.fetch(NAMES, {})]


async def test_a_statement_that_is_all_of_a_unit_commits_by_itself(single: Database) -> None:
    async with single.connect(writing=True) as connection, verbs(connection) as sent:
        await connection.send(ADD, {"user": "somebody"})
        await connection.commit()
    assert sent == ["INSERT"]
    assert await names(single) == ["somebody"]


async def test_a_last_statement_without_parameters_goes_out_with_the_commit(single: Database) -> None:
    async with single.connect(writing=True) as connection, verbs(connection) as sent:
        await connection.send(ADD, {"user": "somebody"})
        await connection.send(COPY, {})
        await connection.commit()
    assert sent == ["BEGIN", "INSERT", "INSERT"]
    assert await names(single) == ["somebody", "somebody else"]


async def test_when_that_statement_fails_nothing_is_stored_and_the_connection_goes_on(single: Database) -> None:
    async with single.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
        await connection.send(COPY, {})
        await connection.send(COPY, {})
        with pytest.raises(DataRefused):
            await connection.commit()
    assert await names(single) == []


async def test_several_statements_are_one_transaction(single: Database) -> None:
    async with single.connect(writing=True) as connection, verbs(connection) as sent:
        await connection.send(ADD, {"user": "somebody"})
        await connection.send(ADD, {"user": "some other"})
        await connection.commit()
    assert sent == ["BEGIN", "INSERT", "INSERT", "COMMIT"]


async def test_what_is_sent_and_not_committed_is_not_stored(single: Database) -> None:
    async with single.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
    async with single.connect(writing=True) as connection:
        await connection.commit()
    assert await names(single) == []


async def test_a_unit_sees_what_it_sent_before(single: Database) -> None:
    async with single.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
        assert [row.id for row in await connection.fetch(NAMES, {})] == ["somebody"]
        await connection.send(ADD, {"user": "some other"})
        found = await connection.plain.execute(NAMES.order_by(users.c.id))
        assert list(found.scalars()) == ["some other", "somebody"]
    assert await names(single) == []


async def test_a_refused_statement_that_was_to_commit_by_itself_leaves_nothing_behind(single: Database) -> None:
    async with single.connect(writing=True) as connection:
        await connection.send(ADD, {"user": "somebody"})
        await connection.commit()
        await connection.send(ADD, {"user": "somebody"})
        with pytest.raises(DataRefused):
            await connection.commit()
    assert await names(single) == ["somebody"]
