"""What decisions on tool calls are taken, and which are refused for what reason."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.approvals import Resolved
from domain.conversations import GenerationSettings, Message
from domain.errors import Conflict, InvalidInput, NotFound
from domain.inputs import MAX_COMMENT, ResolveToolCall
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
