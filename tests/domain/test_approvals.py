"""Tool calls that wait for their user's consent: each is decided on once, whoever asks how often and from where."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.approvals import Resolved
from domain.conversations import GenerationSettings, Message
from domain.errors import Conflict, InvalidInput, NotFound
from domain.inputs import MAX_COMMENT, EditMessage, ResolveToolCall
from domain.models import ToolAnswer
from domain.replies import ReplyStatus
from domain.tool_calls import ToolCall, ToolCallStatus, ToolDecision
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.doubles import ScriptedModel, WordCounter, answer, calling
from tests.letters import LETTER, PostOffice
from tests.serving import settings_for
from tests.toolbox import StubToolbox

APPROVE, DENY = ToolDecision.APPROVE, ToolDecision.DENY
WITH_LETTERS = GenerationSettings(tools=("send_letter", "postage"))


class MovedClock:
    """The system's, moved."""

    def __init__(self) -> None:
        self.moved = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.moved


@dataclass
class Post:
    """A server whose model wants to send a letter."""

    talk: Talk
    office: PostOffice
    toolbox: StubToolbox
    clock: MovedClock

    async def asked(self, **fields: Any) -> ToolCall:
        """Send a message; the call that waits for approval."""
        sent = await self.talk.send(settings=WITH_LETTERS, **fields)
        return (await self.waiting(sent.reply_id))[0]

    async def waiting(self, reply_id: str) -> list[ToolCall]:
        """The calls of a reply, when it has nothing left to do but wait."""
        stream = await self.talk.running.services.stream.follow(ME, reply_id, None)
        async for _ in stream:
            message = await self.talk.message(reply_id)
            if message.reply is not None and message.reply.status is ReplyStatus.AWAITING_APPROVAL:
                await stream.aclose()
                return calls_of(message)
        raise AssertionError("the reply ended")

    async def resolve(self, call: ToolCall, decision: ToolDecision, **more: Any) -> Resolved:
        return await self.talk.running.services.approvals.resolve(ME, ResolveToolCall(call.id, decision, **more))

    async def ended(self) -> Message:
        """The last reply, when it has ended."""
        return await self.talk.settled(self.talk.sent[-1].reply_id)

    def told(self) -> str:
        """What the model was last told of its call."""
        last = self.talk.model.requests[-1].messages[-1]
        assert isinstance(last, ToolAnswer)
        return last.text


def calls_of(message: Message) -> list[ToolCall]:
    return [part.call for part in message.parts if part.call is not None]


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    model = ScriptedModel(calling(("send_letter", LETTER)), answer("Done."))
    office, clock = PostOffice(), MovedClock()
    toolbox = office.toolbox()
    settings = settings_for(tmp_path)
    async with open_services(settings, model=model, tokens=WordCounter(), toolbox=toolbox, clock=clock) as running:
        yield Post(Talk(running, model), office, toolbox, clock)


async def test_who_waits_for_a_reply_hears_at_once_that_it_awaits_approval(post: Post) -> None:
    sent = await post.talk.send(settings=WITH_LETTERS)
    reply = await post.talk.settled(sent.reply_id)
    assert reply.reply is not None
    assert reply.reply.status is ReplyStatus.AWAITING_APPROVAL


async def test_an_approved_call_is_made_and_the_reply_goes_on(post: Post) -> None:
    call = await post.asked()
    assert post.office.letters == []
    resolved = await post.resolve(call, APPROVE)
    assert resolved.call.status is ToolCallStatus.QUEUED
    reply = await post.ended()
    assert (reply.text, post.office.letters) == ("Done.", [("Ada", "Come at five.")])
    (made,) = calls_of(reply)
    assert (made.status, made.result) == (ToolCallStatus.SUCCEEDED, {"number": 1})
    assert made.approval is not None
    assert made.approval.decision is APPROVE


async def test_a_denied_call_is_not_made_and_the_model_hears_why(post: Post) -> None:
    call = await post.asked()
    resolved = await post.resolve(call, DENY, comment="Not to her.")
    assert resolved.call.finished_at is not None
    (denied,) = calls_of(await post.ended())
    assert denied.status is ToolCallStatus.DENIED
    assert post.office.letters == []
    assert "Not to her." in post.told()


async def test_changed_arguments_are_what_the_tool_gets_and_the_model_is_told(post: Post) -> None:
    call = await post.asked()
    await post.resolve(call, APPROVE, arguments={"to": "Grace", "text": "Come at six."})
    (made,) = calls_of(await post.ended())
    assert post.office.letters == [("Grace", "Come at six.")]
    assert made.arguments_text == LETTER
    assert "Grace" in str(post.talk.model.requests[-1].messages[-2])


async def test_changed_arguments_that_do_not_fit_decide_nothing(post: Post) -> None:
    call = await post.asked()
    with pytest.raises(InvalidInput) as refused:
        await post.resolve(call, APPROVE, arguments={"to": 1})
    assert refused.value.path == ("arguments",)
    await post.resolve(call, APPROVE)
    await post.ended()
    assert post.office.letters == [("Ada", "Come at five.")]


async def test_arguments_for_a_tool_that_is_gone_cannot_be_changed(post: Post) -> None:
    call = await post.asked()
    post.toolbox.take_away("send_letter")
    with pytest.raises(Conflict, match="not there now"):
        await post.resolve(call, APPROVE, arguments={"to": "Grace", "text": "Come."})


async def test_a_call_whose_tool_is_gone_when_it_is_approved_ends_without_a_result(post: Post) -> None:
    call = await post.asked()
    post.toolbox.take_away("send_letter")
    await post.resolve(call, APPROVE)
    (ended,) = calls_of(await post.ended())
    assert ended.status is ToolCallStatus.FAILED


async def test_the_same_decision_again_is_harmless(post: Post) -> None:
    call = await post.asked()
    first = await post.resolve(call, APPROVE)
    again = await post.resolve(call, APPROVE)
    assert again.reply_id == first.reply_id
    await post.ended()
    late = await post.resolve(call, APPROVE, arguments={"to": "Ada", "text": "Come at five."})
    assert late.call.status is ToolCallStatus.SUCCEEDED
    assert len(post.office.letters) == 1


async def test_another_decision_is_refused_with_how_the_call_stands(post: Post) -> None:
    call = await post.asked()
    await post.resolve(call, APPROVE)
    with pytest.raises(Conflict, match="approved before"):
        await post.resolve(call, DENY)
    with pytest.raises(Conflict, match="approved before, with other arguments"):
        await post.resolve(call, APPROVE, arguments={"to": "Grace", "text": "Come."})
    await post.ended()


async def test_of_many_decisions_at_once_the_first_counts(post: Post) -> None:
    call = await post.asked()
    decisions = [post.resolve(call, decision) for decision in [APPROVE, DENY] * 10]
    results = await asyncio.gather(*decisions, return_exceptions=True)
    assert {type(each) for each in results} == {Resolved, Conflict}
    kept = {each.call.approval.decision for each in results if isinstance(each, Resolved) and each.call.approval}
    assert len(kept) == 1
    await post.ended()
    assert len(post.office.letters) == (kept == {APPROVE})


async def test_a_reply_goes_on_when_the_last_of_its_calls_is_decided_on(post: Post) -> None:
    post.talk.model.play(calling(("send_letter", LETTER), ("send_letter", LETTER)), answer("Done."))
    sent = await post.talk.send(settings=WITH_LETTERS)
    one, other = await post.waiting(sent.reply_id)
    await post.resolve(one, APPROVE)
    message = await post.talk.message(sent.reply_id)
    assert message.reply is not None
    assert message.reply.status is ReplyStatus.AWAITING_APPROVAL
    assert post.office.letters == []
    await post.resolve(other, DENY)
    statuses = [call.status for call in calls_of(await post.ended())]
    assert statuses == [ToolCallStatus.SUCCEEDED, ToolCallStatus.DENIED]
    assert len(post.office.letters) == 1


async def test_a_remembered_approval_holds_for_later_calls_in_its_conversation_alone(post: Post) -> None:
    call = await post.asked()
    await post.resolve(call, APPROVE, remember=True)
    conversation_id = (await post.ended()).conversation_id
    post.talk.model.play(calling(("send_letter", LETTER)), answer("Again."))
    reply = await post.talk.say(settings=WITH_LETTERS, conversation_id=conversation_id)
    assert (reply.text, len(post.office.letters)) == ("Again.", 2)
    post.talk.model.play(calling(("send_letter", LETTER)), answer("Elsewhere."))
    assert (await post.asked()).status is ToolCallStatus.AWAITING_APPROVAL


async def test_a_call_that_nobody_decides_on_expires_and_the_reply_goes_on(post: Post) -> None:
    post.clock.moved = timedelta(days=-2)
    call = await post.asked()
    post.clock.moved = timedelta()
    with pytest.raises(Conflict, match="time to decide"):
        await post.resolve(call, APPROVE)
    await post.talk.running.services.approvals.expire()
    (expired,) = calls_of(await post.ended())
    assert expired.status is ToolCallStatus.EXPIRED
    assert expired.finished_at is not None
    assert "in time" in post.told()
    with pytest.raises(Conflict, match="time to decide"):
        await post.resolve(call, DENY)


async def test_a_call_does_not_expire_before_its_time(post: Post) -> None:
    call = await post.asked()
    assert await post.talk.running.services.approvals.expire() == 0
    await post.resolve(call, APPROVE)
    assert (await post.ended()).text == "Done."


async def test_a_call_of_a_stopped_reply_waits_no_more(post: Post) -> None:
    call = await post.asked()
    await post.talk.running.services.replies.stop_reply(ME, post.talk.sent[-1].reply_id)
    (cancelled,) = calls_of(await post.ended())
    assert cancelled.status is ToolCallStatus.CANCELLED
    with pytest.raises(Conflict, match="ended before"):
        await post.resolve(call, APPROVE)
    assert post.office.letters == []


async def test_a_call_in_a_deleted_conversation_is_not_there(post: Post) -> None:
    call = await post.asked()
    await post.talk.running.services.conversations.delete(ME, post.talk.sent[-1].conversation_id)
    with pytest.raises(NotFound):
        await post.resolve(call, APPROVE)


async def test_a_call_that_needs_no_approval_takes_no_decision(post: Post) -> None:
    post.talk.model.play(calling(("postage", '{"grams": 5}')), answer("85 cents."))
    reply = await post.talk.say(settings=WITH_LETTERS)
    (call,) = calls_of(reply)
    with pytest.raises(Conflict, match="needs no approval"):
        await post.resolve(call, APPROVE)


async def test_a_foreign_call_is_not_there(post: Post) -> None:
    call = await post.asked()
    approvals = post.talk.running.services.approvals
    with pytest.raises(NotFound) as refused:
        await approvals.resolve("user_somebody", ResolveToolCall(call.id, APPROVE))
    assert refused.value.path == ("toolCallId",)


async def test_a_waiting_reply_keeps_no_other_branch_and_no_other_conversation_waiting(post: Post) -> None:
    await post.asked()
    waiting = post.talk.sent[-1]
    post.talk.model.play(answer("Elsewhere."))
    assert (await post.talk.say()).text == "Elsewhere."
    edited = EditMessage(waiting.message_id or "", "Or rather?")
    beside = await post.talk.running.services.replies.edit_message(ME, edited)
    assert (await post.talk.settled(beside.reply_id)).text == "Elsewhere."


WRONG: dict[str, dict[str, Any]] = {
    "arguments": {"decision": DENY, "arguments": {"to": "Ada", "text": "x"}},
    "remember": {"decision": DENY, "remember": True},
    "comment": {"decision": DENY, "comment": "x" * (MAX_COMMENT + 1)},
}


@pytest.mark.parametrize("field", WRONG)
async def test_a_decision_must_keep_the_rules(post: Post, field: str) -> None:
    call = await post.asked()
    with pytest.raises(InvalidInput) as refused:
        await post.resolve(call, **WRONG[field])
    assert refused.value.path == (field,)
