"""The contract of replies that await approval: how they begin to, who decides, and when their time is over."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from domain.conversations import Change, PartKind
from domain.events import PartAdded, StatusChanged, ToolCallChanged
from domain.replies import Lease, ReplyStatus
from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus, ToolDecision, cancelled
from tests.contracts.storing import (
    AWAITS,
    ME,
    Pen,
    Shelf,
    a_call,
    awaiting,
    ids,
    only_postgresql,
)

RUNNING, QUEUED, DENIED = ToolCallStatus.RUNNING, ToolCallStatus.QUEUED, ToolCallStatus.DENIED


def overdue() -> ToolCall:
    then = datetime.now(UTC) - timedelta(seconds=1)
    return a_call(approval=ToolApproval(then, then))


async def claimed(shelf: Shelf) -> list[str]:
    return ids(await shelf.claim())


async def expire(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        for stored in await work.tool_calls.expired(100):
            await work.tool_calls.decide(stored, replace(stored.call, status=ToolCallStatus.EXPIRED))
        await work.commit()


async def ask(shelf: Shelf, lease: Lease) -> dict[str, str]:
    """End the attempt with a call that awaits approval; the call of the reply, if that now waits."""
    call, pen = a_call(), Pen(lease)
    part = len((await shelf.found(lease.reply_id)).parts)
    await shelf.flush(pen.entry(PartAdded(part, PartKind.TOOL_CALL, call)))
    assert await shelf.add_calls(lease, call)
    await shelf.flush(awaiting(pen))
    waits = await shelf.status(lease.reply_id) is ReplyStatus.AWAITING_APPROVAL
    return {lease.reply_id: call.id} if waits else {}


# ── an attempt ends ──


async def test_a_reply_whose_calls_await_approval_has_no_owner_and_is_not_claimed(shelf: Shelf) -> None:
    pen = await shelf.awaiting()
    reply = await shelf.made(pen.id)
    assert (reply.status, reply.usage, reply.requests) == (ReplyStatus.AWAITING_APPROVAL, AWAITS.usage, 1)
    assert (reply.rescues, reply.finished_at) == (0, None)
    assert await claimed(shelf) == []
    assert await shelf.orphans() == []
    assert (await shelf.log(pen.id))[-1].event == StatusChanged(ReplyStatus.AWAITING_APPROVAL)


async def test_what_was_decided_while_it_streamed_is_stored_and_told_by_its_owner(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.calling(call)
    assert await shelf.decide(call.id, DENIED)
    assert (await shelf.calls(pen.id))[call.id].status is DENIED
    assert await shelf.log(pen.id, after=1) == pen.written
    assert await shelf.status(pen.id) is ReplyStatus.STREAMING


async def test_a_reply_whose_calls_were_all_decided_while_it_streamed_is_queued_at_once(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.calling(call)
    await shelf.decide(call.id)
    assert await shelf.flush(awaiting(pen)) == [True]
    assert await shelf.status(pen.id) is ReplyStatus.QUEUED
    *_, waits, queued = await shelf.log(pen.id)
    assert waits == pen.written[-1]
    assert (queued.seq, queued.event) == (waits.seq + 1, StatusChanged(ReplyStatus.QUEUED))
    (lease,) = await shelf.claim("work_2")
    assert (lease.attempt, lease.next_seq) == (2, queued.seq + 2)


async def test_a_reply_waits_while_one_of_its_calls_does(shelf: Shelf) -> None:
    first, second = a_call(), a_call()
    pen = await shelf.calling(first, second)
    await shelf.decide(first.id)
    await shelf.flush(awaiting(pen))
    assert await shelf.status(pen.id) is ReplyStatus.AWAITING_APPROVAL


@only_postgresql
async def test_a_decision_and_the_end_of_the_attempt_at_once_leave_no_reply_waiting(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.calling(call)
    async with shelf.storage.write() as deciding:
        stored = await deciding.tool_calls.get(ME, call.id)
        assert stored is not None
        assert stored.reply_status is ReplyStatus.STREAMING
        ending = asyncio.create_task(shelf.flush(awaiting(pen)))
        await shelf.somebody_waits()
        await deciding.tool_calls.decide(stored, replace(stored.call, status=QUEUED))
        await deciding.commit()
    assert await ending == [True]
    assert await shelf.status(pen.id) is ReplyStatus.QUEUED


async def test_an_attempt_that_is_to_stop_while_it_begins_to_wait_ends_there(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.calling(call)
    await shelf.stop(pen.id)
    await shelf.flush(awaiting(pen))
    assert await shelf.status(pen.id) is ReplyStatus.STOPPED
    assert await shelf.calls(pen.id) == {call.id: cancelled(call)}


# ── a decision ──


async def test_the_last_decision_is_told_and_queues_the_reply(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.awaiting(call)
    assert await shelf.decide(call.id)
    approved = replace(call, status=QUEUED)
    told = (await shelf.log(pen.id))[-2:]
    assert [logged.event for logged in told] == [ToolCallChanged(0, approved), StatusChanged(ReplyStatus.QUEUED)]
    assert [logged.seq for logged in told] == [pen.written[-1].seq + 1, pen.written[-1].seq + 2]
    assert (await shelf.found(pen.id)).parts[0].call == approved
    (lease,) = await shelf.claim("work_2")
    assert (lease.reply_id, lease.attempt, lease.next_seq) == (pen.id, 2, told[-1].seq + 2)


async def test_a_decision_that_is_not_the_last_is_told_and_the_reply_waits_on(shelf: Shelf) -> None:
    first, second = a_call(), a_call()
    pen = await shelf.awaiting(first, second)
    seen = len(await shelf.told())
    await shelf.decide(first.id, DENIED)
    assert await shelf.status(pen.id) is ReplyStatus.AWAITING_APPROVAL
    assert (await shelf.log(pen.id))[-1].event == ToolCallChanged(0, replace(first, status=DENIED))
    assert len(await shelf.told()) == seen
    await shelf.decide(second.id)
    assert await shelf.status(pen.id) is ReplyStatus.QUEUED
    (told,) = await shelf.told(after=seen)
    assert (told.kind, told.message_id) == (Change.MESSAGE_UPDATED, pen.id)


async def test_of_two_deciders_at_once_one_wins(shelf: Shelf) -> None:
    for _ in range(5):
        call = a_call()
        pen = await shelf.awaiting(call)
        decided = await asyncio.gather(shelf.decide(call.id), shelf.decide(call.id, DENIED))
        assert sorted(decided) == [False, True]
        status = QUEUED if decided[0] else DENIED
        assert (await shelf.calls(pen.id))[call.id].status is status
        assert [logged.event for logged in await shelf.log(pen.id, after=pen.written[-1].seq)] == [
            ToolCallChanged(0, replace(call, status=status)),
            StatusChanged(ReplyStatus.QUEUED),
        ]


async def test_decisions_on_all_calls_of_a_reply_at_once_queue_it_once(shelf: Shelf) -> None:
    calls = [a_call() for _ in range(5)]
    pen = await shelf.awaiting(*calls)
    assert all(await asyncio.gather(*(shelf.decide(call.id) for call in calls)))
    events = [logged.event for logged in await shelf.log(pen.id, after=pen.written[-1].seq)]
    assert events.count(StatusChanged(ReplyStatus.QUEUED)) == 1
    assert events[-1] == StatusChanged(ReplyStatus.QUEUED)
    assert len(events) == 6


async def test_a_decision_and_a_stop_at_once_leave_every_call_ended_or_decided(shelf: Shelf) -> None:
    for _ in range(5):
        call = a_call()
        pen = await shelf.awaiting(call)
        await asyncio.gather(shelf.decide(call.id, DENIED), shelf.stop(pen.id))
        assert await shelf.status(pen.id) is ReplyStatus.STOPPED
        stored = (await shelf.calls(pen.id))[call.id]
        assert stored.status in (DENIED, ToolCallStatus.CANCELLED)
        assert (await shelf.found(pen.id)).parts[0].call == stored


async def test_a_call_is_found_with_where_it_belongs_and_how_its_reply_stands(shelf: Shelf) -> None:
    running, call = a_call(RUNNING), a_call()
    pen = await shelf.awaiting(running, call)
    async with shelf.storage.write() as work:
        stored = await work.tool_calls.get(ME, call.id)
    assert stored is not None
    assert (stored.call, stored.index, stored.reply_id) == (call, 1, pen.id)
    assert (stored.conversation_id, stored.user_id) == (pen.lease.conversation_id, ME)
    assert stored.reply_status is ReplyStatus.AWAITING_APPROVAL


async def test_a_call_is_nobody_elses_to_decide(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.awaiting(call)
    assert not await shelf.decide(call.id, user_id=await shelf.user())
    assert not await shelf.decide("call_absent")
    assert await shelf.status(pen.id) is ReplyStatus.AWAITING_APPROVAL


async def test_arguments_that_a_user_changed_are_what_is_stored_and_told(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.awaiting(call)
    decision = replace(call.approval or ToolApproval(datetime.now(UTC)), decision=ToolDecision.APPROVE, comment="Tea!")
    changed = replace(call, status=QUEUED, arguments={"title": "Green tea"}, approval=decision)
    async with shelf.storage.write() as work:
        stored = await work.tool_calls.get(ME, call.id)
        assert stored is not None
        await work.tool_calls.decide(stored, changed)
        await work.commit()
    assert await shelf.calls(pen.id) == {call.id: changed}
    assert (await shelf.found(pen.id)).parts[0].call == changed


# ── time over ──


async def test_calls_expire_by_the_databases_clock_and_no_others(shelf: Shelf) -> None:
    late = overdue()
    pen = await shelf.awaiting(late)
    await shelf.awaiting(a_call())
    await shelf.calling(replace(overdue(), status=RUNNING))
    (stored,) = await shelf.expired()
    assert (stored.call, stored.reply_id, stored.user_id) == (late, pen.id, ME)


async def test_all_calls_of_a_reply_expire_in_one_unit(shelf: Shelf) -> None:
    calls = [overdue() for _ in range(3)]
    pen = await shelf.awaiting(*calls)
    await expire(shelf)
    assert await shelf.status(pen.id) is ReplyStatus.QUEUED
    assert {call.status for call in (await shelf.calls(pen.id)).values()} == {ToolCallStatus.EXPIRED}
    assert len(await shelf.log(pen.id, after=pen.written[-1].seq)) == 4
    assert await shelf.expired() == []


async def test_calls_expire_some_at_a_time_the_oldest_first(shelf: Shelf) -> None:
    calls = [overdue() for _ in range(3)]
    await shelf.awaiting(*calls)
    async with shelf.storage.write() as work:
        assert [stored.call.id for stored in await work.tool_calls.expired(2)] == [call.id for call in calls[:2]]


@only_postgresql
async def test_a_call_that_is_just_being_decided_on_does_not_expire(shelf: Shelf) -> None:
    call = overdue()
    await shelf.awaiting(call)
    async with shelf.storage.write() as deciding:
        stored = await deciding.tool_calls.get(ME, call.id)
        assert stored is not None
        assert await shelf.expired() == []
        await deciding.tool_calls.decide(stored, replace(call, status=QUEUED))
        await deciding.commit()
    assert await shelf.expired() == []
