"""The contract of Replies, on every database: the queue, who may claim from it, and stopping."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.events import Finished, LoggedEvent, StatusChanged
from domain.replies import FinishReason, HandOver, Lease, Progress, ReplyStatus
from tests.contracts.storing import (
    ANSWER,
    BEGINNING,
    DONE,
    ME,
    OWNER,
    Pen,
    Shelf,
    add_reply,
    ids,
    law,
    only_postgresql,
)
from tests.contracts.test_storage_approvals import ask


async def chain(shelf: Shelf, length: int = 3) -> tuple[str, list[str]]:
    """A conversation in which each reply is the answer to a message under the one before."""
    conversation, made = await shelf.conversation(), list[str]()
    for _ in range(length):
        said = await shelf.message(conversation.id, made[-1] if made else None)
        made.append(await shelf.queued(conversation.id, said.id))
    return conversation.id, made


async def claimed(shelf: Shelf) -> list[str]:
    return ids(await shelf.claim())


async def finish(shelf: Shelf, lease: Lease) -> None:
    await shelf.flush(Pen(lease).entry(*ANSWER, outcome=DONE))


# ── claiming ──


async def test_the_oldest_are_claimed_first(shelf: Shelf) -> None:
    late = await shelf.queued(queued_at=BEGINNING + timedelta(seconds=2))
    early = await shelf.queued(queued_at=BEGINNING)
    same = await shelf.queued(queued_at=BEGINNING)
    assert ids(await shelf.claim(limit=2)) == [early, same]
    assert await claimed(shelf) == [late]


async def test_a_claim_raises_the_attempt_and_is_logged(shelf: Shelf) -> None:
    reply_id = await shelf.queued(instruction="Shorter.")
    shelf.clock.later(3)
    (lease,) = await shelf.claim()
    reply = await shelf.made(reply_id)
    assert (lease.attempt, lease.owner, lease.next_seq, lease.rescues) == (1, OWNER, 2, 0)
    assert (lease.settings, lease.instruction) == (reply.settings, "Shorter.")
    assert (reply.status, reply.attempt) == (ReplyStatus.STREAMING, 1)
    assert reply.started_at == BEGINNING + timedelta(seconds=3)
    assert await shelf.log(reply_id) == [LoggedEvent(1, 1, StatusChanged(ReplyStatus.STREAMING))]


async def test_a_second_claim_goes_on_with_the_numbers_and_keeps_the_first_start(shelf: Shelf) -> None:
    reply_id = await shelf.queued()
    (first,) = await shelf.claim()
    await shelf.requeue(first)
    shelf.clock.later()
    (second,) = await shelf.claim("work_2")
    assert (second.attempt, second.next_seq, second.rescues) == (2, 5, 1)
    assert (await shelf.made(reply_id)).started_at == BEGINNING
    assert [logged.seq for logged in await shelf.log(reply_id)] == [1, 2, 3, 4]


async def test_nothing_is_claimed_from_an_empty_queue(shelf: Shelf) -> None:
    assert await claimed(shelf) == []


async def test_each_reply_is_claimed_by_one_of_many_claimers(shelf: Shelf) -> None:
    queued = [await shelf.queued() for _ in range(10)]
    claims = await asyncio.gather(*(shelf.claim(f"work_{n}", limit=3) for n in range(5)))
    rest = await shelf.claim()
    assert sorted(ids([lease for claim in [*claims, rest] for lease in claim])) == queued


@only_postgresql
async def test_a_claimer_leaves_out_what_another_one_is_just_claiming(shelf: Shelf) -> None:
    first, second = await shelf.queued(), await shelf.queued()
    await shelf.beat("work_1")
    await shelf.beat("work_2")
    async with shelf.storage.write() as one, shelf.storage.write() as other:
        assert ids(await one.replies.claim("work_1", 1)) == [first]
        assert ids(await other.replies.claim("work_2", 5)) == [second]
        await other.commit()
        await one.commit()
    assert await claimed(shelf) == []


async def test_a_claim_that_was_not_committed_never_was(shelf: Shelf) -> None:
    reply_id = await shelf.queued()
    async with shelf.storage.write() as work:
        await work.replies.claim("work_1", 1)
    assert await shelf.log(reply_id) == []
    (lease,) = await shelf.claim("work_2")
    assert lease.attempt == 1


# ── waiting for those above ──


async def test_a_reply_waits_until_those_above_it_are_settled(shelf: Shelf) -> None:
    _, (a, b, c) = await chain(shelf)
    for reply_id in (a, b, c):
        (lease,) = await shelf.claim()
        assert lease.reply_id == reply_id
        assert await claimed(shelf) == []
        await finish(shelf, lease)


async def test_alternatives_do_not_wait_for_each_other(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    said = await shelf.message(conversation.id)
    both = [await shelf.queued(conversation.id, said.id) for _ in range(2)]
    assert await claimed(shelf) == both


async def test_a_reply_behind_one_that_was_stopped_in_the_queue_waits_for_what_that_one_waited_for(
    shelf: Shelf,
) -> None:
    _, (a, b, c) = await chain(shelf)
    (lease,) = await shelf.claim()
    assert lease.reply_id == a
    assert await shelf.stop(b) is ReplyStatus.QUEUED
    assert await claimed(shelf) == []
    await finish(shelf, lease)
    assert await claimed(shelf) == [c]


async def test_a_reply_sent_after_one_that_was_stopped_in_the_queue_waits_for_what_that_one_waited_for(
    shelf: Shelf,
) -> None:
    conversation_id, (a, b) = await chain(shelf, 2)
    (lease,) = await shelf.claim()
    await shelf.stop(b)
    said = await shelf.message(conversation_id, b)
    c = await shelf.queued(conversation_id, said.id)
    assert (await shelf.made(c)).behind_id == a
    assert await claimed(shelf) == []
    await finish(shelf, lease)
    assert await claimed(shelf) == [c]


async def test_a_reply_waits_for_one_above_that_went_back_into_the_queue(shelf: Shelf) -> None:
    _, (a, _b) = await chain(shelf, 2)
    (lease,) = await shelf.claim()
    await shelf.requeue(lease)
    assert await claimed(shelf) == [a]


async def test_the_nearest_reply_above_is_found_through_messages_that_have_none(shelf: Shelf) -> None:
    conversation_id, (a,) = await chain(shelf, 1)
    parent_id = a
    for _ in range(3):
        parent_id = (await shelf.message(conversation_id, parent_id)).id
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled_above(parent_id) == [a]
        assert await work.replies.unsettled_above(a) == [a]
        assert await work.replies.unsettled_above(None) == []
        assert await work.replies.unsettled_above("msg_absent") == []


async def test_nobody_waits_for_a_settled_reply(shelf: Shelf) -> None:
    pen = await shelf.settled()
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled_above(pen.id) == []


async def test_nobody_waits_for_a_settled_reply_above_one_that_was_stopped_in_the_queue(shelf: Shelf) -> None:
    _, (_a, b) = await chain(shelf, 2)
    (lease,) = await shelf.claim()
    await shelf.stop(b)
    await finish(shelf, lease)
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled_above(b) == []


async def test_the_unsettled_replies_above_a_message_are_found_nearest_first(shelf: Shelf) -> None:
    conversation_id, (a, b, c, d) = await chain(shelf, 4)
    beside = await shelf.queued(conversation_id, a)
    await shelf.claim()
    await shelf.stop(c)
    said = await shelf.message(conversation_id, d)
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled_above(said.id) == [d, b, a]
        assert await work.replies.unsettled_above(beside) == [beside, a]
        assert await work.replies.unsettled_above(None) == []


@law
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["send", "send", "stop", "claim", "finish", "rescue", "ask", "decide"]), st.integers(0, 9)
        )
    )
)
async def test_whatever_happens_no_reply_is_made_beside_one_above_it_and_none_waits_for_ever(
    shelf: Shelf, steps: list[tuple[str, int]]
) -> None:
    conversation = await shelf.conversation()
    above: dict[str, str | None] = {}
    streaming: dict[str, Lease] = {}
    asked: dict[str, str] = {}

    def settled_or_streaming(lease: Lease) -> None:
        streaming[lease.reply_id] = lease
        ancestor = above[lease.reply_id]
        while ancestor is not None:
            assert ancestor not in streaming
            assert ancestor not in asked
            ancestor = above[ancestor]

    for step, pick in [*steps, *[("claim", 0), ("decide", 0), ("finish", 0)] * (2 * len(steps) + 1)]:
        if step == "send":
            parent = [None, *above][pick % (len(above) + 1)]
            above[await shelf.queued(conversation.id, parent)] = parent
        elif step == "claim":
            for lease in await shelf.claim():
                settled_or_streaming(lease)
        elif step == "stop" and above:
            stopped = list(above)[pick % len(above)]
            await shelf.stop(stopped)
            asked.pop(stopped, None)
        elif step == "decide" and asked:
            assert await shelf.decide(asked.pop(list(asked)[pick % len(asked)]))
        elif step != "decide" and streaming:
            lease = streaming.pop(list(streaming)[pick % len(streaming)])
            if step == "finish":
                await finish(shelf, lease)
            elif step == "ask":
                asked |= await ask(shelf, lease)
            else:
                await shelf.requeue(lease)
        await look_up_from_everywhere(shelf, conversation.id, above)
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled(conversation.id) == []


async def look_up_from_everywhere(shelf: Shelf, conversation_id: str, above: dict[str, str | None]) -> None:
    """From each reply exactly the unsettled ones on its path are seen."""
    async with shelf.storage.read() as work:
        unsettled = await work.replies.unsettled(conversation_id)
        for reply_id in above:
            path: list[str] = []
            at: str | None = reply_id
            while at is not None:
                path.append(at)
                at = above[at]
            assert await work.replies.unsettled_above(reply_id) == [each for each in path if each in unsettled]


# ── stopping ──


async def test_a_reply_stopped_in_the_queue_is_settled_and_never_claimed(shelf: Shelf) -> None:
    reply_id = await shelf.queued()
    shelf.clock.later()
    assert await shelf.stop(reply_id) is ReplyStatus.QUEUED
    reply = await shelf.made(reply_id)
    assert (reply.status, reply.finish_reason) == (ReplyStatus.STOPPED, FinishReason.STOPPED_BY_USER)
    assert (reply.finished_at, reply.last_seq, reply.attempt) == (shelf.clock.at, 1, 0)
    assert await shelf.log(reply_id) == [LoggedEvent(1, 0, Finished(ReplyStatus.STOPPED))]
    assert await claimed(shelf) == []


async def test_a_reply_stopped_in_the_queue_keeps_what_an_earlier_attempt_had_shown(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(*ANSWER))
    await shelf.requeue(replace(pen.lease, next_seq=pen.written[-1].seq + 1), HandOver(token_count=2))
    assert await shelf.stop(pen.id) is ReplyStatus.QUEUED
    message = await shelf.found(pen.id)
    assert (message.text, message.token_count) == ("Good morning", 2)
    assert message.reply is not None
    assert message.reply.status is ReplyStatus.STOPPED


async def test_a_streaming_reply_is_flagged_for_its_owner(shelf: Shelf) -> None:
    mine, other = await shelf.streaming(), await shelf.streaming()
    assert await shelf.stop(mine.id) is ReplyStatus.STREAMING
    assert await shelf.status(mine.id) is ReplyStatus.STREAMING
    async with shelf.storage.read() as work:
        held = {h.reply_id: h.stop_requested for h in await work.replies.held(OWNER)}
        assert held == {mine.id: True, other.id: False}
        assert await work.replies.held("work_2") == []
    report = await shelf.storage.flush(OWNER, [other.entry(*ANSWER)])
    assert report.to_stop == {mine.lease.key}


async def test_stopping_a_settled_reply_changes_nothing(shelf: Shelf) -> None:
    pen = await shelf.settled()
    before = await shelf.found(pen.id)
    assert await shelf.stop(pen.id) is ReplyStatus.COMPLETE
    assert await shelf.found(pen.id) == before


async def test_stopping_a_reply_that_is_not_there_says_so(shelf: Shelf) -> None:
    assert await shelf.stop("msg_absent") is None


async def test_of_many_stops_of_one_queued_reply_one_settles_it(shelf: Shelf) -> None:
    reply_id = await shelf.queued()
    found = await asyncio.gather(*(shelf.stop(reply_id) for _ in range(6)))
    assert sorted(found, key=str) == [ReplyStatus.QUEUED, *[ReplyStatus.STOPPED] * 5]
    assert len(await shelf.log(reply_id)) == 1


async def test_a_stop_and_a_claim_at_once_leave_a_reply_either_stopped_or_flagged(shelf: Shelf) -> None:
    queued = [await shelf.queued() for _ in range(6)]
    stops = [asyncio.create_task(shelf.stop(reply_id)) for reply_id in queued]
    leases = await shelf.claim()
    await asyncio.wait(stops)
    async with shelf.storage.read() as work:
        flagged = [held.reply_id for held in await work.replies.held(OWNER) if held.stop_requested]
    assert sorted(flagged) == sorted(ids(leases))
    for reply_id in set(queued) - set(flagged):
        assert await shelf.status(reply_id) is ReplyStatus.STOPPED


@only_postgresql
async def test_a_stop_waits_for_a_reply_that_is_just_being_added_behind_the_stopped_one(shelf: Shelf) -> None:
    conversation_id, (a, b) = await chain(shelf, 2)
    await shelf.claim()
    async with shelf.storage.write() as sending:
        await sending.conversations.get(ME, conversation_id, lock=True)
        stopping = asyncio.create_task(shelf.stop(b))
        await shelf.somebody_waits()
        c = await add_reply(sending, conversation_id, b)
        await sending.commit()
    await stopping
    assert (await shelf.made(c)).behind_id == a


@only_postgresql
async def test_deleting_a_conversation_and_settling_its_reply_do_not_wait_for_each_other(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    pen = await shelf.streaming(conversation.id)
    async with shelf.storage.write() as deleting:
        await deleting.conversations.get(ME, conversation.id, lock=True)
        settling = asyncio.create_task(shelf.flush(pen.entry(*ANSWER, outcome=DONE)))
        await shelf.somebody_waits()
        assert await deleting.replies.request_stop(pen.id) is ReplyStatus.STREAMING
        await deleting.conversations.delete(conversation.id, BEGINNING)
        await deleting.commit()
    (result,) = await settling
    assert result
    assert await shelf.status(pen.id) is ReplyStatus.COMPLETE


# ── where things stand ──


async def test_unsettled_replies_are_those_of_the_conversation_that_are_queued_or_streaming(shelf: Shelf) -> None:
    conversation_id, (a, b, c) = await chain(shelf)
    await shelf.queued()
    await shelf.stop(c)
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled(conversation_id) == [a, b]


async def test_only_waiting_replies_count_as_queued(shelf: Shelf) -> None:
    await shelf.streaming()
    await shelf.settled()
    await chain(shelf, 2)
    async with shelf.storage.read() as work:
        assert await work.replies.queued() == 2


async def test_progress_is_the_status_and_the_last_number_before_and_after_the_sweep(shelf: Shelf) -> None:
    reply_id = await shelf.queued()
    assert await shelf.progress(reply_id) == Progress(ReplyStatus.QUEUED, 0)
    (lease,) = await shelf.claim()
    assert await shelf.progress(reply_id) == Progress(ReplyStatus.STREAMING, 1)
    await finish(shelf, lease)
    assert await shelf.progress(reply_id) == Progress(ReplyStatus.COMPLETE, 5)
    async with shelf.storage.write() as work:
        await work.log.sweep(shelf.clock.later())
        await work.commit()
    assert await shelf.progress(reply_id) == Progress(ReplyStatus.COMPLETE, 5)


async def test_a_reply_that_is_not_there_has_no_progress(shelf: Shelf) -> None:
    assert [await shelf.progress(some) for some in ("msg_absent", "\0", "\ud800")] == [None, None, None]
