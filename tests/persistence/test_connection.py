"""Statements that are made ready once."""

import pytest
from sqlalchemy import bindparam, insert, literal, select

from persistence.database import Database
from persistence.tables import Id, users
from tests.contracts.storing import BEGINNING

ADD = insert(users).values(id=bindparam("user", type_=Id), display_name=bindparam("name"), created_at=BEGINNING)
ECHO = select(bindparam("said", "nothing", type_=Id), literal(None, Id))


async def test_a_parameter_that_is_missing_is_a_mistake_and_not_null(database: Database) -> None:
    async with database.connect(writing=True) as connection:
        with pytest.raises(KeyError, match="name"):
            await connection.send(ADD, {"user": "somebody"})


async def test_a_parameter_with_a_value_of_its_own_may_be_left_out(database: Database) -> None:
    async with database.connect(writing=False) as connection:
        assert await connection.fetch(ECHO, {}) == [("nothing", None)]
        assert await connection.fetch(ECHO, {"said": "something"}) == [("something", None)]
