"""The contract of the Feed, on every database: numbers without gaps, and who is told of what."""

import asyncio
import random
from datetime import timedelta

from domain.conversations import Change
from domain.storage import UnitOfWork
from tests.contracts.storing import ANSWER, DONE, LOST_ATTEMPT, ME, Pen, Shelf

AN_HOUR = timedelta(hours=1)


async def happens(shelf: Shelf, *conversation_ids: str, user_id: str = ME) -> None:
    async with shelf.storage.write() as work:
        for conversation_id in conversation_ids:
            work.feed.add(user_id, Change.CONVERSATION_UPDATED, conversation_id)
        await work.commit()


async def newest(shelf: Shelf, user_id: str = ME) -> int:
    async with shelf.storage.read() as work:
        return await work.feed.newest(user_id)


async def sweep(shelf: Shelf, age: timedelta) -> None:
    async with shelf.storage.write() as work:
        await work.feed.sweep(age)
        await work.commit()


# ── numbers ──


async def test_events_come_back_as_they_were_added_numbered_from_one(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        for kind in Change:
            about = {"message_id": "msg_1" if "MESSAGE" in kind.name else None, "tool_call_id": _call_in(kind)}
            work.feed.add(ME, kind, "conv_1", **about)
        await work.commit()
    told = await shelf.told()
    assert [(e.seq, e.kind, e.conversation_id) for e in told] == [
        (n, kind, "conv_1") for n, kind in enumerate(Change, 1)
    ]
    assert [e.message_id for e in told] == [None, None, None, "msg_1", "msg_1", None]
    assert [e.tool_call_id for e in told] == [None] * 5 + ["call_1"]


def _call_in(kind: Change) -> str | None:
    return "call_1" if kind is Change.TOOL_APPROVAL_REQUESTED else None


async def test_the_numbers_go_on_in_the_next_unit(shelf: Shelf) -> None:
    await happens(shelf, "conv_1", "conv_2")
    await happens(shelf, "conv_3")
    assert [(e.seq, e.conversation_id) for e in await shelf.told()] == [(1, "conv_1"), (2, "conv_2"), (3, "conv_3")]
    assert await newest(shelf) == 3


async def test_the_same_twice_in_a_unit_is_one_event(shelf: Shelf) -> None:
    await happens(shelf, "conv_1", "conv_2", "conv_1")
    await happens(shelf, "conv_1")
    assert [e.conversation_id for e in await shelf.told()] == ["conv_1", "conv_2", "conv_1"]


async def test_a_unit_that_was_not_committed_leaves_neither_an_event_nor_a_gap(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        work.feed.add(ME, Change.CONVERSATION_UPDATED, "conv_1")
    await happens(shelf, "conv_2")
    assert [(e.seq, e.conversation_id) for e in await shelf.told()] == [(1, "conv_2")]


async def test_what_was_committed_is_not_told_again_by_the_next_commit_of_the_unit(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        work.feed.add(ME, Change.CONVERSATION_UPDATED, "conv_1")
        await work.commit()
        await work.commit()
    assert len(await shelf.told()) == 1


async def test_every_user_has_a_counter_of_their_own(shelf: Shelf) -> None:
    other = await shelf.user()
    async with shelf.storage.write() as work:
        for user_id, conversation_id in ((ME, "conv_1"), (other, "conv_2"), (ME, "conv_3")):
            work.feed.add(user_id, Change.CONVERSATION_CREATED, conversation_id)
        await work.commit()
    assert [(e.seq, e.conversation_id) for e in await shelf.told()] == [(1, "conv_1"), (2, "conv_3")]
    assert [(e.seq, e.conversation_id) for e in await shelf.told(other)] == [(1, "conv_2")]


async def test_nothing_has_happened_to_a_user_who_is_not_there(shelf: Shelf) -> None:
    async with shelf.storage.read() as work:
        assert await work.feed.newest("user_absent") == 0
        assert await work.feed.after("user_absent", 0, 10) == (0, [])


async def test_reading_begins_after_a_number_ends_at_the_limit_and_tells_the_newest(shelf: Shelf) -> None:
    await happens(shelf, *(f"conv_{n}" for n in range(1, 6)))
    async with shelf.storage.read() as work:
        last, events = await work.feed.after(ME, 1, 2)
        assert (last, [e.seq for e in events]) == (5, [2, 3])
        assert await work.feed.after(ME, 5, 2) == (5, [])
        assert await work.feed.after(ME, 10**18, 2) == (5, [])


async def test_of_many_units_at_once_with_many_users_each_user_gets_every_number_once(shelf: Shelf) -> None:
    """Users are named in another order by every unit: those who lock them as they come would wait in a circle."""
    users = [await shelf.user() for _ in range(6)]
    chance = random.Random(7)

    async def unit(number: int) -> None:
        async with shelf.storage.write() as work:
            for user_id in chance.sample(users, 4):
                work.feed.add(user_id, Change.CONVERSATION_UPDATED, f"conv_{number}")
            await work.commit()

    await asyncio.gather(*(unit(number) for number in range(60)))
    told = [[e.seq for e in await shelf.told(user_id)] for user_id in users]
    assert sum(map(len, told)) == 240
    assert told == [list(range(1, len(seqs) + 1)) for seqs in told]


async def test_an_events_time_does_not_run_backwards(shelf: Shelf) -> None:
    await asyncio.gather(*(happens(shelf, f"conv_{n}") for n in range(30)))
    times = [e.at for e in await shelf.told()]
    assert times == sorted(times)


# ── sweeping ──


async def test_a_sweep_removes_old_events_and_keeps_the_counter(shelf: Shelf) -> None:
    await happens(shelf, "conv_1", "conv_2")
    await sweep(shelf, AN_HOUR)
    assert len(await shelf.told()) == 2
    await sweep(shelf, timedelta())
    assert (await shelf.told(), await newest(shelf)) == ([], 2)
    await happens(shelf, "conv_3")
    assert [e.seq for e in await shelf.told()] == [3]


async def test_several_sweeps_at_once_do_not_hinder_each_other(shelf: Shelf) -> None:
    await happens(shelf, *(f"conv_{n}" for n in range(200)))
    await asyncio.gather(*(sweep(shelf, timedelta()) for _ in range(4)))
    assert await shelf.told() == []


# ── what happens to replies ──


async def updates(shelf: Shelf, after: int) -> list[str | None]:
    """The messages that were updated, and nothing else happened."""
    told = await shelf.told(after=after)
    assert {e.kind for e in told} <= {Change.MESSAGE_UPDATED}
    assert {e.conversation_id for e in told} == {(await shelf.found(e.message_id or "")).conversation_id for e in told}
    return [e.message_id for e in told]


async def test_a_claim_tells_of_every_reply_it_took(shelf: Shelf) -> None:
    queued = [await shelf.queued() for _ in range(3)]
    before = await newest(shelf)
    await shelf.claim()
    assert await updates(shelf, before) == queued
    assert await shelf.claim() == []
    assert await newest(shelf) == before + 3


async def test_a_claim_tells_the_user_whose_reply_it_took(shelf: Shelf) -> None:
    other = await shelf.user()
    reply_id = await shelf.queued((await shelf.conversation(user_id=other)).id)
    (lease,) = await shelf.claim()
    assert lease.user_id == other
    assert (await shelf.told(other))[-1].message_id == reply_id
    assert await shelf.told(ME) == []


async def test_a_flush_tells_of_replies_that_end_and_of_no_others(shelf: Shelf) -> None:
    ending, going_on = await shelf.streaming(), await shelf.streaming()
    before = await newest(shelf)
    await shelf.flush(ending.entry(*ANSWER), going_on.entry(*ANSWER))
    assert await updates(shelf, before) == []
    await shelf.flush(ending.entry(outcome=DONE), going_on.entry())
    assert await updates(shelf, before) == [ending.id]


async def test_an_end_that_is_sent_again_or_by_a_lost_lease_is_told_once(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    before = await newest(shelf)
    entry = pen.entry(*ANSWER, outcome=DONE)
    for _ in range(2):
        await shelf.flush(entry)
    assert await updates(shelf, before) == [pen.id]


async def test_a_requeued_reply_is_told_once(shelf: Shelf) -> None:
    async def requeue(work: UnitOfWork, pen: Pen) -> None:
        for _ in range(2):
            await work.workers.requeue(pen.lease, LOST_ATTEMPT)
        await work.commit()

    pen, stopped = await shelf.streaming(), await shelf.streaming()
    await shelf.stop(stopped.id)
    before = await newest(shelf)
    for each in (pen, stopped):
        async with shelf.storage.write() as work:
            await requeue(work, each)
    assert await updates(shelf, before) == [pen.id, stopped.id]


async def test_an_orphans_lease_names_the_user(shelf: Shelf) -> None:
    other = await shelf.user()
    await shelf.streaming((await shelf.conversation(user_id=other)).id)
    (orphan,) = await shelf.orphans()
    assert orphan.user_id == other


async def test_a_reply_that_is_stopped_in_the_queue_is_told_and_a_flag_for_a_streaming_one_is_not(shelf: Shelf) -> None:
    streaming, queued = await shelf.streaming(), await shelf.queued()
    before = await newest(shelf)
    for reply_id in (streaming.id, queued, queued):
        await shelf.stop(reply_id)
    assert await updates(shelf, before) == [queued]
