"""When the numbers of events become visible, where several transactions are under way at once."""

import asyncio

from domain.conversations import Change
from persistence.unit_of_work import SqlStorage
from tests.contracts.storing import ME, Shelf, only_postgresql


async def commit_one(storage: SqlStorage, conversation_id: str) -> None:
    async with storage.write() as work:
        work.feed.add(ME, Change.CONVERSATION_UPDATED, conversation_id)
        await work.commit()


@only_postgresql
async def test_a_later_number_never_commits_before_an_earlier_one(shelf: Shelf) -> None:
    storage = SqlStorage(shelf.database, shelf.clock)
    async with storage.write() as first:
        first.feed.add(ME, Change.CONVERSATION_UPDATED, "conv_1")
        await first.feed.write()
        assert await first.feed.newest(ME) == 1  # what is written goes out with the question
        second = asyncio.create_task(commit_one(storage, "conv_2"))
        await shelf.somebody_waits()
        assert await shelf.told() == []
        await first.commit()
    await second
    assert [(e.seq, e.conversation_id) for e in await shelf.told()] == [(1, "conv_1"), (2, "conv_2")]


@only_postgresql
async def test_a_unit_that_has_not_come_to_its_commit_holds_nobody_up(shelf: Shelf) -> None:
    storage = SqlStorage(shelf.database, shelf.clock)
    async with storage.write() as slow:
        await slow.conversations.get(ME, "conv_1", lock=True)
        slow.feed.add(ME, Change.CONVERSATION_UPDATED, "conv_1")
        await commit_one(storage, "conv_2")
        await slow.commit()
    assert [(e.seq, e.conversation_id) for e in await shelf.told()] == [(1, "conv_2"), (2, "conv_1")]
