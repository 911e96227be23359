"""The contract of what waits for replies that await approval, and of what does not; what stops and removes them."""

import asyncio
import random
from dataclasses import replace

import pytest

from domain.conversations import PartKind
from domain.events import Finished, PartAdded, TextDelta, ToolCallChanged
from domain.replies import ReplyStatus
from domain.tool_calls import ToolCallStatus, cancelled
from tests.contracts.storing import (
    AWAITS,
    DONE,
    ME,
    Pen,
    Shelf,
    a_call,
    awaiting,
)
from tests.contracts.test_storage_approvals import DENIED, RUNNING, claimed, expire, overdue
from tests.contracts.test_storage_budgets import totals, use_of


async def test_a_reply_that_awaits_approval_counts_towards_no_limit(shelf: Shelf) -> None:
    ann = await shelf.user()
    conversation = await shelf.conversation(user_id=ann)
    call = a_call()
    pen = await shelf.calling(call, conversation_id=conversation.id, reserved_tokens=100)
    assert totals(await use_of(shelf, ann))[:2] == (1, 100)
    await shelf.flush(awaiting(pen))
    spent = AWAITS.usage.total_tokens
    assert totals(await use_of(shelf, ann)) == (0, 0, spent, spent)
    await shelf.decide(call.id, user_id=ann)
    assert totals(await use_of(shelf, ann))[:2] == (1, 0)


async def test_a_reply_that_is_queued_at_once_keeps_what_is_left_of_its_reservation(shelf: Shelf) -> None:
    ann = await shelf.user()
    conversation = await shelf.conversation(user_id=ann)
    call = a_call()
    pen = await shelf.calling(call, conversation_id=conversation.id, reserved_tokens=100)
    await shelf.decide(call.id, user_id=ann)
    await shelf.flush(awaiting(pen))
    assert totals(await use_of(shelf, ann))[:2] == (1, 100 - AWAITS.usage.total_tokens)


async def test_a_reply_waits_behind_one_that_awaits_approval_and_other_branches_do_not(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    said = await shelf.message(conversation.id)
    call = a_call()
    pen = await shelf.calling(call, conversation_id=conversation.id, parent_id=said.id)
    early = await shelf.queued(conversation.id, pen.id)
    await shelf.flush(awaiting(pen))
    late = await shelf.queued(conversation.id, pen.id)
    beside = await shelf.queued(conversation.id, said.id)
    assert await claimed(shelf) == [beside]
    async with shelf.storage.read() as work:
        assert await work.replies.unsettled_above(late) == [late, pen.id]
    await shelf.decide(call.id)
    (lease,) = await shelf.claim()
    assert lease.reply_id == pen.id
    await shelf.flush(Pen(lease).entry(outcome=DONE))
    assert await claimed(shelf) == [early, late]


async def test_a_reply_that_awaits_approval_has_not_ended(shelf: Shelf) -> None:
    pen = await shelf.awaiting()
    async with shelf.storage.write() as work:
        assert await work.replies.unsettled(pen.lease.conversation_id) == [pen.id]
        assert await work.replies.unsettled_of(ME) == [pen.id]
        assert await work.replies.queued() == 0
    assert (await shelf.found(pen.id)).cursor == pen.written[-1].seq


async def test_a_reply_that_awaits_approval_is_stopped_at_once_with_its_calls(shelf: Shelf) -> None:
    waiting, done = a_call(), a_call(ToolCallStatus.SUCCEEDED, result=1)
    pen = await shelf.awaiting(waiting, done)
    behind = await shelf.queued(pen.lease.conversation_id, pen.id)
    assert await shelf.stop(pen.id) is ReplyStatus.AWAITING_APPROVAL
    assert await shelf.status(pen.id) is ReplyStatus.STOPPED
    assert await shelf.calls(pen.id) == {waiting.id: cancelled(waiting), done.id: done}
    message = await shelf.found(pen.id)
    assert [part.call for part in message.parts] == [cancelled(waiting), done]
    assert (await shelf.log(pen.id))[-1].event == Finished(ReplyStatus.STOPPED)
    assert message.cursor == pen.written[-1].seq + 1
    assert not await shelf.decide(waiting.id)
    assert await claimed(shelf) == [behind]


async def test_a_reply_that_stops_before_its_readers_were_told_a_decision_keeps_it(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.calling(call)
    await shelf.decide(call.id, DENIED)
    await shelf.flush(awaiting(pen))
    await shelf.stop(pen.id)
    denied = replace(call, status=DENIED)
    assert [part.call for part in (await shelf.found(pen.id)).parts] == [denied]
    assert [logged.event for logged in (await shelf.log(pen.id))[-2:]] == [
        ToolCallChanged(0, denied),
        Finished(ReplyStatus.STOPPED),
    ]
    assert await shelf.calls(pen.id) == {call.id: denied}


async def test_a_reply_goes_on_and_ends_after_its_calls_were_approved(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.awaiting(call)
    await shelf.decide(call.id)
    (lease,) = await shelf.claim("work_2")
    ran = replace(call, status=RUNNING)
    assert await shelf.add_calls(lease, ran)
    assert await shelf.finish(lease, replace(ran, status=ToolCallStatus.SUCCEEDED, result="done"))
    entry = Pen(lease).entry(ToolCallChanged(0, replace(ran, status=ToolCallStatus.SUCCEEDED)), outcome=DONE)
    assert await shelf.flush(entry, owner="work_2") == [True]
    reply = await shelf.made(pen.id)
    assert (reply.status, reply.usage) == (ReplyStatus.COMPLETE, AWAITS.usage + DONE.usage)


async def test_whoever_has_the_conversation_by_then_decides_and_pays(shelf: Shelf) -> None:
    ann, ben = await shelf.user(), await shelf.user()
    call = a_call()
    pen = await shelf.awaiting(call, conversation_id=(await shelf.conversation(user_id=ann)).id)
    async with shelf.storage.write() as work:
        await work.conversations.give(ann, ben)
        await work.users.delete(ann)
        await work.commit()
    async with shelf.storage.write() as work:
        assert await work.users.purge() == 1
        await work.commit()
    assert not await shelf.decide(call.id, user_id=ann)
    assert await shelf.decide(call.id, user_id=ben)
    (lease,) = await shelf.claim()
    assert (lease.reply_id, lease.user_id) == (pen.id, ben)
    assert await shelf.flush(Pen(lease).entry(outcome=DONE)) == [True]
    assert (await use_of(shelf, ben)).tokens_today == DONE.usage.total_tokens


async def test_deciding_stopping_claiming_storing_and_ending_at_once_do_not_wait_in_a_circle(shelf: Shelf) -> None:
    chance, people = random.Random(5), [ME, await shelf.user()]
    conversations = [await shelf.conversation(user_id=user_id) for user_id in people for _ in range(2)]
    for _ in range(8):
        pens = [
            await shelf.calling(*(overdue() for _ in range(3)), conversation_id=chance.choice(conversations).id)
            for _ in range(6)
        ]
        await shelf.flush(*(awaiting(pen) for pen in pens[:3]))
        calls = [call for pen in pens for call in await shelf.calls(pen.id)]
        acts = [
            *(shelf.decide(call_id, user_id=user_id) for call_id in calls for user_id in people),
            *(shelf.stop(pen.id) for pen in pens[1:4]),
            *(shelf.add_calls(pen.lease, a_call(), a_call(RUNNING)) for pen in pens),
            shelf.flush(*(awaiting(pen) for pen in pens[3:5])),
            shelf.flush(pens[5].entry(outcome=DONE)),
            *(expire(shelf) for _ in range(3)),
            shelf.claim("work_2"),
        ]
        chance.shuffle(acts)
        await asyncio.gather(*acts)
        for pen in pens:
            status = await shelf.status(pen.id)
            left = [call.status for call in (await shelf.calls(pen.id)).values() if not call.status.ended]
            assert not (status.settled and left)
            assert status is not ReplyStatus.AWAITING_APPROVAL or ToolCallStatus.AWAITING_APPROVAL in left
        for lease in await shelf.claim("work_3"):
            await shelf.flush(Pen(lease).entry(outcome=DONE), owner="work_3")


@pytest.mark.parametrize("removed", ["conversation", "user"])
async def test_what_awaits_approval_goes_with_its_conversation_and_its_user(shelf: Shelf, removed: str) -> None:
    ann = await shelf.user()
    conversation = await shelf.conversation(user_id=ann)
    call = overdue()
    pen = await shelf.awaiting(call, conversation_id=conversation.id)
    async with shelf.storage.write() as work:
        live = await (work.replies.unsettled_of(ann) if removed == "user" else work.replies.unsettled(conversation.id))
        for reply_id in live:
            assert await work.replies.request_stop(reply_id) is ReplyStatus.AWAITING_APPROVAL
        if removed == "user":
            await work.users.delete(ann)
        else:
            await work.conversations.delete(conversation.id, shelf.clock.now())
        await work.commit()
    assert await shelf.calls(pen.id) == {call.id: cancelled(call)}
    assert await shelf.expired() == []
    async with shelf.storage.write() as work:
        assert await work.conversations.purge(shelf.clock.later()) == 1
        assert await work.users.purge() == (removed == "user")
        await work.commit()
    assert await shelf.calls(pen.id) == {}


async def test_a_new_answer_may_follow_the_text_of_one_that_waited(shelf: Shelf) -> None:
    call = a_call()
    pen = await shelf.awaiting(call)
    await shelf.decide(call.id, DENIED)
    (lease,) = await shelf.claim()
    more = Pen(lease).entry(PartAdded(1, PartKind.TEXT), TextDelta(1, "Good morning"))
    assert await shelf.flush(more) == [True]
    assert (await shelf.found(pen.id)).text == "Good morning"
