"""The contract of stored tool calls: who may write them, what comes back, and what ends them, on every database."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.conversations import Change, MessagePart, PartKind
from domain.events import ArgumentsDelta, Finished, LoggedEvent, PartAdded, Retrying, StatusChanged, ToolCallChanged
from domain.replies import INTERRUPTED, FinishReason, Outcome, ReplyStatus
from domain.storage import FlushEntry
from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus, ToolDecision, ToolErrorCode, cancelled
from tests.contracts.storing import (
    DONE,
    LOST_ATTEMPT,
    OWNER,
    Shelf,
    a_call,
    add_reply,
    law,
    only_postgresql,
)
from tests.contracts.test_storage_log import retaken

RUNNING, SUCCEEDED = ToolCallStatus.RUNNING, ToolCallStatus.SUCCEEDED
NOW = datetime(2026, 2, 3, 4, 5, 6, 7, UTC)


# ── what comes back ──

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@law
@given(arguments=st.dictionaries(st.text(), ANY_JSON, max_size=3), result=ANY_JSON)
async def test_arguments_and_results_come_back_as_they_were_in_their_order(
    shelf: Shelf, arguments: dict[str, object], result: object
) -> None:
    call = a_call(SUCCEEDED, arguments=arguments, result=result)
    pen = await shelf.calling(call)
    (stored,) = (await shelf.calls(pen.id)).values()
    assert stored == call
    assert stored.arguments is not None
    assert list(stored.arguments) == list(arguments)
    assert (await shelf.found(pen.id)).parts[0].call == call


APPROVED = ToolApproval(NOW, NOW, NOW, ToolDecision.APPROVE, "Go on.")


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("call_1", "tool", 3, status=ToolCallStatus.QUEUED),
        a_call(SUCCEEDED, approval=APPROVED, started_at=NOW, finished_at=NOW, result=[1, None]),
        a_call(ToolCallStatus.FAILED, error="No.", error_code=ToolErrorCode.REFUSED, arguments={}),
        a_call(ToolCallStatus.EXPIRED, approval=ToolApproval(NOW)),
    ],
)
async def test_a_call_comes_back_in_every_state_from_the_log_its_message_and_its_row(
    shelf: Shelf, call: ToolCall
) -> None:
    begun = PartAdded(0, PartKind.TOOL_CALL, ToolCall(call.id, call.name, call.step))
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(begun, ArgumentsDelta(0, '{"tit'), ArgumentsDelta(0, 'le": 1}')))
    written = (await shelf.found(pen.id)).parts[0].call
    assert written is not None
    assert written.arguments_text == '{"title": 1}'
    assert await shelf.add_calls(pen.lease, call)
    await shelf.flush(pen.entry(ToolCallChanged(0, call), outcome=DONE))
    assert await shelf.log(pen.id, after=1) == pen.written
    assert (await shelf.found(pen.id)).parts == (MessagePart(0, PartKind.TOOL_CALL, call=cancelled(call)),)
    assert await shelf.calls(pen.id) == {call.id: cancelled(call)}


async def test_what_no_database_can_store_of_an_error_is_made_storable(shelf: Shelf) -> None:
    pen = await shelf.calling(a_call(ToolCallStatus.FAILED, error="\0 and \ud800"))
    (stored,) = (await shelf.calls(pen.id)).values()
    assert stored.error == "\ufffd and ?"


async def test_the_calls_of_a_reply_are_its_own(shelf: Shelf) -> None:
    first, second, other = a_call(RUNNING), a_call(), a_call(RUNNING)
    pen = await shelf.calling(first, second)
    await shelf.calling(other)
    assert await shelf.calls(pen.id) == {first.id: first, second.id: second}
    assert await shelf.calls("msg_absent") == {}


# ── who may write ──


async def test_a_call_that_a_later_attempt_adds_is_as_that_has_it(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await retaken(shelf, await shelf.calling(call))
    again = replace(call, arguments={"title": "Coffee"})
    assert await shelf.add_calls(pen.lease, again)
    assert await shelf.calls(pen.id) == {call.id: again}


async def test_a_call_that_is_added_twice_keeps_what_was_decided_meanwhile(shelf: Shelf) -> None:
    """The answer to the first commit was lost, and a user was quicker than the second."""
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    done = replace(call, status=SUCCEEDED)
    assert await shelf.finish(pen.lease, done)
    assert await shelf.add_calls(pen.lease, call)
    assert await shelf.calls(pen.id) == {call.id: done}


async def test_the_result_of_a_running_call_is_stored_once(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    done = replace(call, status=SUCCEEDED, result={"id": "task_1"})
    assert await shelf.finish(pen.lease, done)
    assert not await shelf.finish(pen.lease, replace(done, result="another"))
    assert await shelf.calls(pen.id) == {call.id: done}


async def test_a_call_that_does_not_run_has_no_result(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.calling(call)
    assert not await shelf.finish(pen.lease, replace(call, status=SUCCEEDED))
    assert not await shelf.finish(pen.lease, a_call(SUCCEEDED))
    assert await shelf.calls(pen.id) == {call.id: call}


async def test_the_result_of_a_lost_lease_is_not_stored(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    new = await retaken(shelf, pen)
    done = replace(call, status=SUCCEEDED)
    assert not await shelf.finish(pen.lease, done)
    assert not await shelf.add_calls(pen.lease, a_call(RUNNING))
    assert not await shelf.finish(new.lease, done), "it runs in no attempt until it is added again"
    assert await shelf.calls(pen.id) == {call.id: call}
    assert await shelf.add_calls(new.lease, call)
    assert not await shelf.finish(pen.lease, done)
    assert await shelf.finish(new.lease, done)


async def test_an_owner_whose_heartbeat_is_gone_stores_no_call(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    async with shelf.storage.write() as work:
        await work.workers.leave(OWNER)
        await work.commit()
    assert not await shelf.add_calls(pen.lease, a_call(RUNNING))
    assert not await shelf.finish(pen.lease, replace(call, status=SUCCEEDED))


async def test_what_a_tool_did_is_undone_when_its_result_comes_too_late(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    async with shelf.storage.write() as work:
        await work.tool_calls.allow(pen.lease.conversation_id, "add_task")
        assert await work.tool_calls.finish(replace(pen.lease, attempt=0), call) is False
    async with shelf.storage.read() as work:
        assert await work.tool_calls.allowed(pen.lease.conversation_id) == frozenset()


@only_postgresql
async def test_a_takeover_leaves_out_a_reply_whose_tool_is_just_storing_its_result(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    async with shelf.storage.write() as finishing:
        assert await finishing.tool_calls.finish(pen.lease, replace(call, status=SUCCEEDED))
        assert await shelf.orphans() == []
        await finishing.commit()
    (orphan,) = await shelf.orphans()
    assert orphan.reply_id == pen.id


@only_postgresql
async def test_a_result_waits_for_a_takeover_under_way_and_is_not_stored(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    async with shelf.storage.write() as rescuing:
        (orphan,) = await rescuing.workers.orphans(0, 100)
        finishing = asyncio.create_task(shelf.finish(pen.lease, replace(call, status=SUCCEEDED)))
        await shelf.somebody_waits()
        await rescuing.workers.requeue(orphan, LOST_ATTEMPT)
        await rescuing.commit()
    assert not await finishing
    assert await shelf.calls(pen.id) == {call.id: call}


@only_postgresql
async def test_an_end_waits_for_a_result_that_is_just_being_stored_and_keeps_it(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    done = replace(call, status=SUCCEEDED, result=1)
    pen = await shelf.calling(call)
    async with shelf.storage.write() as finishing:
        assert await finishing.tool_calls.finish(pen.lease, done)
        ending = asyncio.create_task(shelf.flush(pen.entry(outcome=DONE)))
        await shelf.somebody_waits()
        await finishing.commit()
    assert await ending == [True]
    assert await shelf.calls(pen.id) == {call.id: done}


async def test_results_and_ends_at_once_do_not_wait_in_a_circle(shelf: Shelf) -> None:
    calls = [[a_call(RUNNING) for _ in range(4)] for _ in range(4)]
    pens = [await shelf.calling(*some) for some in calls]
    results = [
        shelf.finish(pen.lease, replace(call, status=SUCCEEDED))
        for pen, some in zip(pens, calls, strict=True)
        for call in some
    ]
    await asyncio.gather(shelf.flush(*(pen.entry(outcome=DONE) for pen in pens)), *results)
    for pen in pens:
        ends = {call.status for call in (await shelf.calls(pen.id)).values()}
        assert ends <= {SUCCEEDED, ToolCallStatus.CANCELLED}


# ── whom it is told ──


async def test_a_call_that_awaits_approval_is_told_the_user_of_its_conversation(shelf: Shelf) -> None:
    running, waiting = a_call(RUNNING), a_call()
    pen = await shelf.calling(running, waiting)
    (told,) = [event for event in await shelf.told() if event.kind is Change.TOOL_APPROVAL_REQUESTED]
    assert (told.conversation_id, told.message_id) == (pen.lease.conversation_id, pen.id)
    assert told.tool_call_id == waiting.id
    assert {event.tool_call_id for event in await shelf.told() if event != told} == {None}


# ── what ends them ──


async def test_the_end_of_a_reply_cancels_what_has_not_ended_of_its_calls(shelf: Shelf) -> None:
    calls = [a_call(status) for status in (RUNNING, ToolCallStatus.AWAITING_APPROVAL, ToolCallStatus.QUEUED, SUCCEEDED)]
    other = await shelf.calling(a_call(RUNNING))
    pen = await shelf.calling(*calls)
    await shelf.flush(pen.entry(*(), outcome=DONE))
    ended = {call.id: cancelled(call) for call in calls}
    assert await shelf.calls(pen.id) == ended
    assert [part.call for part in (await shelf.found(pen.id)).parts] == list(ended.values())
    assert {call.status for call in (await shelf.calls(other.id)).values()} == {RUNNING}


async def test_a_rescuers_end_cancels_calls_too(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    outcome = Outcome(ReplyStatus.FAILED, FinishReason.ERROR, error=INTERRUPTED)
    async with shelf.storage.write() as work:
        (orphan,) = await work.workers.orphans(0, 100)
        finished = LoggedEvent(orphan.next_seq, orphan.attempt, Finished(outcome.status))
        parts = (MessagePart(0, PartKind.TOOL_CALL, call=cancelled(call)),)
        await work.log.settle(FlushEntry(orphan, (finished,), outcome, parts))
        await work.commit()
    assert await shelf.calls(pen.id) == {call.id: cancelled(call)}


async def test_a_rescue_tells_what_was_stored_before_it_says_that_another_attempt_goes_on(shelf: Shelf) -> None:
    call = a_call(RUNNING)
    pen = await shelf.calling(call)
    told = ToolCallChanged(0, replace(call, status=SUCCEEDED))
    async with shelf.storage.write() as work:
        (orphan,) = await work.workers.orphans(0, 100)
        await work.workers.requeue(orphan, LOST_ATTEMPT, [told])
        await work.commit()
    assert [logged.event for logged in await shelf.log(pen.id, after=3)] == [
        told,
        StatusChanged(ReplyStatus.QUEUED),
        Retrying(2, 0),
    ]


async def test_calls_go_with_their_conversation(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.awaiting(call)
    async with shelf.storage.write() as work:
        await work.tool_calls.allow(pen.lease.conversation_id, "add_task")
        await work.conversations.delete(pen.lease.conversation_id, NOW)
        await work.commit()
    assert not await shelf.decide(call.id)
    async with shelf.storage.write() as work:
        assert await work.conversations.purge(datetime.now(UTC)) == 1
        await work.commit()
    assert await shelf.calls(pen.id) == {}
    async with shelf.storage.read() as work:
        assert await work.tool_calls.allowed(pen.lease.conversation_id) == frozenset()


# ── going on from a reply that had some ──


async def test_a_reply_that_begins_with_an_earlier_ones_calls_has_them_as_they_ended(shelf: Shelf) -> None:
    calls = (a_call(SUCCEEDED, result=1), cancelled(a_call(RUNNING)), cancelled(ToolCall("call_w", "t", 1)))
    parts = tuple(MessagePart(index, PartKind.TOOL_CALL, call=call) for index, call in enumerate(calls))
    parts += (MessagePart(3, PartKind.TEXT, "Half a "),)
    conversation = await shelf.conversation()
    async with shelf.storage.write() as work:
        reply_id = await add_reply(work, conversation.id)
        await work.log.begin(reply_id, parts)
        await work.commit()
    assert (await shelf.found(reply_id)).parts == parts
    (lease,) = await shelf.claim()
    assert lease.next_seq == 7


# ── what users allowed for good ──


async def test_what_was_allowed_is_allowed_in_its_conversation_alone_however_often_it_was(shelf: Shelf) -> None:
    mine, other = await shelf.conversation(), await shelf.conversation()
    for tool in ("add_task", "mail", "mail"):
        async with shelf.storage.write() as work:
            await work.tool_calls.allow(mine.id, tool)
            await work.commit()
    async with shelf.storage.read() as work:
        assert await work.tool_calls.allowed(mine.id) == {"add_task", "mail"}
        assert await work.tool_calls.allowed(other.id) == frozenset()


@only_postgresql
async def test_an_end_waits_for_calls_that_are_just_being_stored_and_closes_them(shelf: Shelf) -> None:
    pen = await shelf.calling(a_call(RUNNING))
    async with shelf.storage.write() as storing:
        assert await storing.tool_calls.add(pen.lease, [(1, a_call(RUNNING)), (2, a_call())])
        ending = asyncio.create_task(shelf.flush(pen.entry(outcome=DONE)))
        await shelf.somebody_waits()
        await storing.commit()
    assert await ending == [True]
    assert all(call.status.ended for call in (await shelf.calls(pen.id)).values())
