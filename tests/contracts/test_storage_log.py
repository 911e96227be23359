"""The contract of the Log, on every database: the fence, settling, reading on, and what remains after the sweep."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.conversations import Message, MessagePart, PartKind
from domain.errors import ReplyErrorCode, StorageError
from domain.events import PartAdded, ReplyEvent, Retrying, StatusChanged, TextDelta, fold
from domain.replies import INTERRUPTED, FinishReason, Outcome, ReplyError, ReplyStatus, Usage
from persistence.streaming import SqlLog
from tests.contracts.storing import (
    ANSWER,
    BEGINNING,
    DONE,
    LOST_ATTEMPT,
    ME,
    OWNER,
    Pen,
    Shelf,
    law,
    only_postgresql,
)

MINE, LOST = True, False
FULL = Outcome(
    ReplyStatus.FAILED,
    FinishReason.ERROR,
    error=ReplyError(ReplyErrorCode.PROVIDER_RATE_LIMITED, "Too many requests.", retryable=True, retry_after_ms=1500),
    usage=Usage(11, 5, 2, 1, estimated=True),
    requests=3,
    response_model="scripted-1",
    completion_id="completion-1",
    request_id="request-1",
    first_token_at=BEGINNING + timedelta(milliseconds=250),
    token_count=5,
)


async def sweep(shelf: Shelf, seconds_later: float = 0) -> int:
    async with shelf.storage.write() as work:
        swept = await work.log.sweep(shelf.clock.at + timedelta(seconds=seconds_later))
        await work.commit()
    return swept


async def retaken(shelf: Shelf, pen: Pen) -> Pen:
    """The same reply, claimed again by another process."""
    await shelf.requeue(pen.lease)
    (lease,) = await shelf.claim("work_2")
    return Pen(lease)


# ── appending ──


async def test_events_of_every_kind_come_back_with_their_numbers(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    events: tuple[ReplyEvent, ...] = (
        Retrying(2, 1500),
        PartAdded(0, PartKind.REASONING),
        TextDelta(0, ""),
        PartAdded(1, PartKind.TEXT),
        TextDelta(1, "芝士 🧀 \\ ' \u2028 \x01"),
    )
    assert await shelf.flush(pen.entry(*events, outcome=DONE)) == [MINE]
    assert await shelf.log(pen.id, after=1) == pen.written


async def test_reading_on_gives_what_is_above_a_number_in_order_up_to_a_limit(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(PartAdded(0, PartKind.TEXT), *(TextDelta(0, str(n)) for n in range(8))))
    async with shelf.storage.read() as work:
        assert await work.log.after(pen.id, 4, 3) == pen.written[3:6]
        assert await work.log.after(pen.id, 10, 3) == []
        assert await work.log.after(pen.id, 999_999_999, 2**31 - 1) == []
        assert await work.log.after("msg_absent", 0, 3) == []


async def test_one_flush_writes_for_many_replies_and_answers_in_their_order(shelf: Shelf) -> None:
    pens = [await shelf.streaming() for _ in range(4)]
    await shelf.stop(pens[2].id)
    await retaken(shelf, pens[1])
    assert await shelf.flush(*(pen.entry(*ANSWER) for pen in reversed(pens))) == [MINE, MINE, LOST, MINE]
    for pen in (pens[0], pens[2], pens[3]):
        assert await shelf.log(pen.id, after=1) == pen.written


async def test_a_flush_of_nothing_is_harmless(shelf: Shelf) -> None:
    assert await shelf.flush() == []


async def test_an_entry_without_events_tells_whether_the_lease_holds(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    assert await shelf.flush(pen.entry()) == [MINE]


async def test_a_piece_may_have_a_megabyte_of_text(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(PartAdded(0, PartKind.TEXT), TextDelta(0, "Käse " * 200_000), outcome=DONE))
    assert (await shelf.found(pen.id)).text == "Käse " * 200_000


async def test_what_cannot_be_stored_fails_as_a_storage_error_and_stores_nothing(shelf: Shelf) -> None:
    pen, other = await shelf.streaming(), await shelf.streaming()
    with pytest.raises(StorageError):
        await shelf.flush(other.entry(*ANSWER), pen.entry(PartAdded(0, PartKind.TEXT), TextDelta(0, "\ud800")))
    assert await shelf.log(other.id, after=1) == []


# ── the fence ──


async def test_an_attempt_that_was_overtaken_stores_nothing_and_does_not_disturb_the_others(shelf: Shelf) -> None:
    old, other = await shelf.streaming(), await shelf.streaming()
    new = await retaken(shelf, old)
    before = await shelf.log(old.id)
    assert await shelf.flush(old.entry(*ANSWER), other.entry(*ANSWER)) == [LOST, MINE]
    assert await shelf.log(old.id) == before
    assert await shelf.log(other.id, after=1) == other.written
    assert await shelf.flush(new.entry(*ANSWER), owner="work_2") == [MINE]


async def test_an_attempt_that_was_overtaken_cannot_settle(shelf: Shelf) -> None:
    old = await shelf.streaming()
    await retaken(shelf, old)
    shelf.clock.later()
    assert await shelf.flush(old.entry(*ANSWER, outcome=DONE)) == [LOST]
    reply = await shelf.made(old.id)
    assert (reply.status, reply.usage, reply.last_seq) == (ReplyStatus.STREAMING, Usage(estimated=True), None)
    async with shelf.storage.read() as work:
        conversation = await work.conversations.get(ME, old.lease.conversation_id)
    assert conversation is not None
    assert conversation.last_activity_at == BEGINNING


async def test_a_reply_that_waits_again_takes_nothing_from_its_last_owner(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.requeue(pen.lease)
    assert await shelf.flush(pen.entry(*ANSWER)) == [LOST]
    assert len(await shelf.log(pen.id)) == 3


async def test_a_reply_that_was_purged_is_nobodys(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    async with shelf.storage.write() as work:
        await work.conversations.delete(pen.lease.conversation_id, BEGINNING)
        await work.conversations.purge(shelf.clock.later())
        await work.commit()
    assert await shelf.flush(pen.entry(*ANSWER, outcome=DONE)) == [LOST]


async def test_an_end_that_another_one_wrote_at_the_same_number_is_not_mine(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    taken = Outcome(ReplyStatus.FAILED, FinishReason.ERROR, error=INTERRUPTED)
    await shelf.flush(Pen(pen.lease).entry(outcome=taken))
    assert await shelf.flush(pen.entry(outcome=DONE)) == [LOST]
    assert await shelf.status(pen.id) is ReplyStatus.FAILED


@only_postgresql
async def test_a_flush_waits_for_a_takeover_under_way_and_then_stores_nothing(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    async with shelf.storage.write() as rescuing:
        (orphan,) = await rescuing.workers.orphans(0, 100)
        flushing = asyncio.create_task(shelf.flush(pen.entry(*ANSWER)))
        await shelf.somebody_waits()
        await rescuing.workers.requeue(orphan, LOST_ATTEMPT)
        await rescuing.commit()
    assert await flushing == [LOST]
    assert len(await shelf.log(pen.id)) == 3


@only_postgresql
async def test_a_takeover_leaves_out_a_reply_that_is_just_being_written(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    async with shelf.storage.write() as flushing:
        assert isinstance(flushing.log, SqlLog)
        await flushing.log.flush(OWNER, [pen.entry(*ANSWER)])
        assert await shelf.orphans() == []
        await flushing.commit()
    (orphan,) = await shelf.orphans()
    assert orphan.next_seq == pen.written[-1].seq + 1


@only_postgresql
async def test_a_flush_that_settles_waits_for_a_takeover_that_settles(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    taken = Outcome(ReplyStatus.FAILED, FinishReason.ERROR, error=INTERRUPTED)
    async with shelf.storage.write() as rescuing:
        (orphan,) = await rescuing.workers.orphans(0, 100)
        flushing = asyncio.create_task(shelf.flush(pen.entry(*ANSWER, outcome=DONE)))
        await shelf.somebody_waits()
        await rescuing.log.settle(Pen(orphan).entry(outcome=taken))
        await rescuing.commit()
    assert await flushing == [LOST]
    reply = await shelf.made(pen.id)
    assert (reply.status, reply.error) == (ReplyStatus.FAILED, INTERRUPTED)


@only_postgresql
async def test_processes_that_settle_in_the_same_conversations_in_another_order_do_not_block_each_other(
    shelf: Shelf,
) -> None:
    one, two = await shelf.conversation(), await shelf.conversation()
    pens = [await shelf.streaming(c.id) for c in (one, two, two, one)]
    for _ in range(5):
        flushes = [shelf.flush(*(Pen(pen.lease).entry(*ANSWER) for pen in pair)) for pair in (pens[:2], pens[2:])]
        await asyncio.gather(*flushes)
    ends = [shelf.flush(*(p.entry(*ANSWER, outcome=DONE) for p in pair)) for pair in (pens[:2], pens[2:])]
    assert await asyncio.gather(*ends) == [[MINE, MINE], [MINE, MINE]]


# ── sending again ──


async def test_sending_an_entry_again_changes_nothing(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    entry = pen.entry(*ANSWER)
    assert [await shelf.flush(entry) for _ in range(3)] == [[MINE]] * 3
    assert await shelf.log(pen.id, after=1) == pen.written


async def test_sending_an_end_again_changes_nothing(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    entry = pen.entry(*ANSWER, outcome=FULL)
    assert await shelf.flush(entry) == [MINE]
    settled = await shelf.found(pen.id)
    shelf.clock.later()
    assert await shelf.flush(entry) == [MINE]
    assert await shelf.found(pen.id) == settled
    assert await shelf.log(pen.id, after=1) == pen.written


async def test_an_end_sent_again_after_the_sweep_brings_no_events_back(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    entry = pen.entry(*ANSWER, outcome=DONE)
    await shelf.flush(entry)
    await sweep(shelf, 1)
    assert await shelf.flush(entry) == [MINE]
    assert await shelf.log(pen.id) == []


async def test_after_a_lost_answer_an_entry_goes_with_what_has_gathered_since(shelf: Shelf) -> None:
    pen, other = await shelf.streaming(), await shelf.streaming()
    again = pen.entry(*ANSWER)
    await shelf.flush(again)
    assert await shelf.flush(again, other.entry(*ANSWER, outcome=DONE)) == [MINE, MINE]
    assert await shelf.flush(pen.entry(outcome=DONE)) == [MINE]
    assert await shelf.log(pen.id, after=1) == pen.written


# ── settling ──


async def test_settling_stores_the_parts_the_outcome_and_the_usage(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    shelf.clock.later(5)
    entry = pen.entry(*ANSWER, outcome=FULL)
    parts = (MessagePart(0, PartKind.REASONING, "Hm.", 40), MessagePart(1, PartKind.TEXT, "Good morning"))
    await shelf.flush(replace(entry, parts=parts))
    message, reply = await shelf.found(pen.id), await shelf.made(pen.id)
    assert (message.parts, message.token_count) == (parts, 5)
    assert (reply.status, reply.finish_reason, reply.error) == (FULL.status, FULL.finish_reason, FULL.error)
    assert (reply.usage, reply.requests, reply.first_token_at) == (FULL.usage, 3, FULL.first_token_at)
    names = (reply.response_model, reply.completion_id, reply.request_id)
    assert names == ("scripted-1", "completion-1", "request-1")
    assert (reply.finished_at, reply.last_seq) == (shelf.clock.at, entry.events[-1].seq)


async def test_settling_is_activity_in_the_conversation(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(*ANSWER))
    shelf.clock.later(5)
    await shelf.flush(pen.entry(outcome=DONE))
    async with shelf.storage.read() as work:
        conversation = await work.conversations.get(ME, pen.lease.conversation_id)
    assert conversation is not None
    assert conversation.last_activity_at == conversation.updated_at == shelf.clock.at


async def test_a_settled_reply_has_no_owner_whose_death_could_matter(shelf: Shelf) -> None:
    await shelf.settled()
    assert await shelf.orphans() == []


async def test_many_replies_end_in_one_flush_each_with_its_own_end(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    pens = [await shelf.streaming(conversation.id) for _ in range(3)]
    outcomes = [DONE, FULL, Outcome(ReplyStatus.STOPPED, FinishReason.STOPPED_BY_USER)]
    entries = [pen.entry(*ANSWER, outcome=outcome) for pen, outcome in zip(pens, outcomes, strict=True)]
    assert await shelf.flush(*entries) == [MINE] * 3
    replies = [await shelf.made(pen.id) for pen in pens]
    assert [reply.status for reply in replies] == [outcome.status for outcome in outcomes]
    assert [reply.error for reply in replies] == [None, FULL.error, None]
    assert [reply.usage for reply in replies] == [outcome.usage for outcome in outcomes]


pieces = st.lists(
    st.tuples(st.integers(0, 2), st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5))
)


@law
@given(pieces=pieces, cuts=st.sets(st.integers(0, 12)))
async def test_however_it_was_split_the_log_adds_up_to_what_is_stored_at_the_end(
    shelf: Shelf, pieces: list[tuple[int, str]], cuts: set[int]
) -> None:
    events: list[ReplyEvent] = [PartAdded(index, PartKind.TEXT) for index in range(3)]
    events += [TextDelta(index, text) for index, text in pieces]
    pen, flushed = await shelf.streaming(), list[Message]()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    for start, end in pairwise(bounds):
        await shelf.flush(pen.entry(*events[start:end]))
        flushed.append(await shelf.found(pen.id))
        assert flushed[-1].parts == fold(pen.written)
    await shelf.flush(pen.entry(outcome=DONE))
    settled = await shelf.found(pen.id)
    assert settled.parts == flushed[-1].parts == fold(await shelf.log(pen.id))
    assert settled.cursor == pen.written[-1].seq


# ── the sweep ──


async def test_the_sweep_takes_the_log_and_leaves_parts_and_cursor(shelf: Shelf) -> None:
    pen = await shelf.settled()
    before = await shelf.found(pen.id)
    assert await sweep(shelf, 1) == 5
    assert await shelf.log(pen.id) == []
    assert await shelf.found(pen.id) == before


async def test_the_sweep_takes_only_what_ended_before_its_instant(shelf: Shelf) -> None:
    early = await shelf.settled()
    shelf.clock.later(10)
    late, live = await shelf.settled(), await shelf.streaming()
    stopped = await shelf.queued()
    await shelf.stop(stopped)
    assert await sweep(shelf) == 5
    assert await shelf.log(early.id) == []
    assert [len(await shelf.log(reply_id)) for reply_id in (late.id, live.id, stopped)] == [5, 1, 1]


async def test_a_second_sweep_finds_nothing(shelf: Shelf) -> None:
    await shelf.settled()
    assert [await sweep(shelf, 1), await sweep(shelf, 1)] == [5, 0]


async def test_what_was_swept_twice_at_once_is_swept_once(shelf: Shelf) -> None:
    for _ in range(3):
        await shelf.settled()
    assert sum(await asyncio.gather(*(sweep(shelf, 1) for _ in range(4)))) == 15


async def test_a_status_that_changed_is_in_the_log_of_every_attempt(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await retaken(shelf, pen)
    changes = [(logged.attempt, logged.event) for logged in await shelf.log(pen.id)]
    streaming, queued = StatusChanged(ReplyStatus.STREAMING), StatusChanged(ReplyStatus.QUEUED)
    assert changes == [(1, streaming), (1, queued), (1, Retrying(2, 0)), (2, streaming)]
