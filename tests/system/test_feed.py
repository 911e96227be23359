"""The experiment on conversationEvents in its short form, and that it notices what it looks for."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from domain.conversations import Change
from persistence.database import Database
from tests.postgres import drop_database, new_database
from tests.system.feed_experiment import Count, prepare, run_round
from tests.system.feed_load import SERIAL_READ, USERS, SerialStorage, SystemClock

EVENTS = 400
CREATED, RENAMED = ("ConversationCreated", "conv_1"), ("ConversationUpdated", "conv_1")


async def test_readers_in_other_processes_miss_nothing_while_several_write(postgres: str) -> None:
    found = await run_round(postgres, 7, EVENTS, serial=False, writers=3, readers=2)
    print(found)
    assert found.stored >= EVENTS
    assert found.whole, str(found)


# ── the control ──


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[Database]:
    url = await new_database(postgres)
    made = Database(url)
    await prepare(made)
    yield made
    await made.close()
    await drop_database(postgres, url)


async def numbers_after(database: Database, last: int) -> list[int]:
    async with database.connect(writing=False) as connection:
        return list((await connection.execute(text(SERIAL_READ), {"user_id": USERS[0], "last": last})).scalars())


async def test_who_goes_on_from_a_bigserial_misses_what_commits_late(database: Database) -> None:
    storage = SerialStorage(database, SystemClock())
    async with storage.write() as late, storage.write() as early:
        for work in (late, early):
            work.feed.add(USERS[0], Change.CONVERSATION_UPDATED, "conv_1")
            await work.feed.write()
        await early.commit()
        assert await numbers_after(database, 0) == [2]
        await late.commit()
    assert await numbers_after(database, 2) == []
    assert await numbers_after(database, 0) == [1, 2]


# ── the comparison ──


def counted(*numbers: int, joins: bool = True) -> Count:
    """What is found when these are told of one creation and three renamings."""
    count = Count()
    count.compare([(1, *CREATED), (2, *RENAMED), (3, *RENAMED), (4, *RENAMED)], numbers, joins=joins)
    return count


def test_the_experiment_notices_what_was_missed_doubled_or_out_of_order() -> None:
    assert counted(1, 2, 3, 4) == Count()
    assert counted(1, 4) == Count(joined=2)
    assert counted(1, 4, joins=False) == Count(missed=2)
    assert counted(4) == Count(joined=2, missed=1)
    assert counted(1, 2) == Count(missed=2)
    assert counted(1, 2, 2, 3, 4) == Count(doubled=1)
    assert counted(2, 1, 3, 4) == Count(disordered=1)
