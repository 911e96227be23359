"""The contract of Workers, on every database: heartbeats, and the replies whose owner is gone."""

import asyncio

from domain.events import Finished, LoggedEvent, Retrying, StatusChanged
from domain.replies import ReplyStatus, Usage
from tests.contracts.storing import ANSWER, DONE, LOST_ATTEMPT, OWNER, Pen, Shelf, ids
from tests.contracts.test_storage_replies import chain

LONG = 3_600.0


async def test_a_reply_whose_owner_beats_is_no_orphan(shelf: Shelf) -> None:
    await shelf.beat()
    await shelf.streaming()
    assert await shelf.orphans(LONG) == []


async def test_a_reply_whose_owner_has_not_beaten_for_the_lease_is_an_orphan(shelf: Shelf) -> None:
    await shelf.beat()
    pen = await shelf.streaming()
    assert ids(await shelf.orphans(0)) == [pen.id]


async def test_another_beat_makes_the_lease_last(shelf: Shelf) -> None:
    for _ in range(3):
        await shelf.beat()
    await shelf.beat("work_2")
    await shelf.streaming()
    assert await shelf.orphans(LONG) == []


async def test_an_owner_whose_heartbeat_is_gone_claims_nothing(shelf: Shelf) -> None:
    await shelf.queued()
    async with shelf.storage.write() as work:
        assert await work.replies.claim("work_gone", 10) == []


async def test_whoever_leaves_orphans_its_replies_at_once_and_nobody_elses(shelf: Shelf) -> None:
    await shelf.beat()
    await shelf.beat("work_2")
    await shelf.queued()
    await shelf.claim("work_2")
    mine = await shelf.streaming()
    async with shelf.storage.write() as work:
        await work.workers.leave(OWNER)
        await work.commit()
    assert ids(await shelf.orphans(LONG)) == [mine.id]


async def test_forgetting_all_voids_every_lease(shelf: Shelf) -> None:
    await shelf.beat()
    await shelf.beat("work_2")
    both = [await shelf.streaming(), await shelf.streaming()]
    async with shelf.storage.write() as work:
        await work.workers.forget_all()
        await work.commit()
    assert ids(await shelf.orphans(LONG)) == [pen.id for pen in both]


async def test_a_reply_that_was_given_up_is_an_orphan_though_its_owner_beats(shelf: Shelf) -> None:
    await shelf.beat()
    given_up, kept = await shelf.streaming(), await shelf.streaming()
    async with shelf.storage.write() as work:
        await work.workers.disown(given_up.lease.reply_id, given_up.lease.attempt)
        await work.commit()
    assert ids(await shelf.orphans(LONG)) == [given_up.id]
    assert (await shelf.flush(kept.entry(*ANSWER)))[0]


async def test_giving_up_a_lease_that_was_lost_changes_nothing(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.requeue(pen.lease)
    await shelf.beat("work_2")
    await shelf.claim("work_2")
    async with shelf.storage.write() as work:
        await work.workers.disown(pen.lease.reply_id, pen.lease.attempt)
        await work.commit()
    assert await shelf.orphans(LONG) == []


async def test_queued_and_settled_replies_are_no_orphans(shelf: Shelf) -> None:
    await shelf.settled()
    await shelf.queued()
    assert await shelf.orphans(0) == []


async def test_an_orphans_lease_goes_on_with_its_numbers(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(*ANSWER))
    (orphan,) = await shelf.orphans()
    assert (orphan.attempt, orphan.owner, orphan.next_seq, orphan.rescues) == (1, OWNER, 5, 0)
    assert (orphan.conversation_id, orphan.settings) == (pen.lease.conversation_id, pen.lease.settings)


async def test_an_orphan_goes_back_into_the_queue_once(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    for _ in range(2):
        await shelf.requeue(pen.lease)
    reply = await shelf.made(pen.id)
    assert (reply.status, reply.rescues, reply.attempt) == (ReplyStatus.QUEUED, 1, 1)
    assert (await shelf.log(pen.id))[1:] == [
        LoggedEvent(2, 1, StatusChanged(ReplyStatus.QUEUED)),
        LoggedEvent(3, 1, Retrying(2, 0)),
    ]


async def test_what_an_orphan_had_cost_is_added_to_what_the_next_attempt_costs(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.requeue(pen.lease)
    (lease,) = await shelf.claim("work_2")
    assert (await shelf.made(pen.id)).requests == 1
    await shelf.flush(Pen(lease).entry(*ANSWER, outcome=DONE), owner="work_2")
    reply = await shelf.made(pen.id)
    assert (reply.requests, reply.usage) == (2, DONE.usage + Usage(estimated=True))


async def test_a_lease_that_was_lost_cannot_put_its_reply_back(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.requeue(pen.lease)
    await shelf.claim("work_2")
    await shelf.requeue(pen.lease)
    assert await shelf.status(pen.id) is ReplyStatus.STREAMING


async def test_a_settled_reply_is_not_put_back(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(*ANSWER, outcome=DONE))
    await shelf.requeue(pen.lease)
    assert await shelf.status(pen.id) is ReplyStatus.COMPLETE


async def test_an_orphan_that_somebody_wants_stopped_ends_there(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.stop(pen.id)
    await shelf.requeue(pen.lease)
    assert await shelf.status(pen.id) is ReplyStatus.STOPPED
    assert (await shelf.log(pen.id))[-1] == LoggedEvent(4, 1, Finished(ReplyStatus.STOPPED))
    assert await shelf.claim() == []


async def test_several_rescuers_at_once_rescue_each_orphan_once(shelf: Shelf) -> None:
    pens = [await shelf.streaming() for _ in range(4)]

    async def rescue() -> int:
        async with shelf.storage.write() as work:
            orphans = await work.workers.orphans(0, 100)
            for orphan in orphans:
                await work.workers.requeue(orphan, LOST_ATTEMPT)
            await work.commit()
        return len(orphans)

    assert sum(await asyncio.gather(*(rescue() for _ in range(4)))) == 4
    assert [(await shelf.made(pen.id)).rescues for pen in pens] == [1] * 4


async def test_orphans_are_taken_some_at_a_time(shelf: Shelf) -> None:
    for _ in range(3):
        await shelf.streaming()
    async with shelf.storage.write() as work:
        assert len(await work.workers.orphans(0, 2)) == 2


async def test_a_process_that_is_silent_is_buried_and_its_later_flush_stores_nothing(shelf: Shelf) -> None:
    pen, kept = await shelf.streaming(), await shelf.streaming()
    async with shelf.storage.write() as work:
        await work.workers.orphans(0, 1)
        await work.commit()
    assert await shelf.flush(pen.entry(*ANSWER), kept.entry(*ANSWER)) == [False, False]


async def test_a_name_that_was_buried_cannot_beat_again(shelf: Shelf) -> None:
    await shelf.streaming()
    async with shelf.storage.write() as work:
        assert await work.workers.beat(OWNER)
        await work.workers.orphans(0, 1)
        assert not await work.workers.beat(OWNER)


async def test_a_reply_is_claimable_while_it_is_queued_and_waits_for_nobody(shelf: Shelf) -> None:
    async def claimable() -> bool:
        async with shelf.storage.peek() as work:
            return await work.replies.claimable()

    assert not await claimable()
    _, (a, _b) = await chain(shelf, 2)
    assert await claimable()
    await shelf.claim()
    assert not await claimable()
    await shelf.stop(a)
    assert not await claimable()
