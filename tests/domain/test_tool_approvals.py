"""Calls that wait for their user: asked for, decided on anywhere, run or not, and never lost."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from domain.conversations import Message
from domain.errors import Conflict, InvalidInput
from domain.feed import FeedEvent, ToolApprovalRequested
from domain.inputs import EditMessage, ResolveToolCall
from domain.replies import ReplyStatus
from domain.streaming import Ended
from domain.tool_calls import ToolCall, ToolCallStatus, ToolDecision, ToolErrorCode
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.domain.test_tools import PARIS, assert_paired, calls_of, offering, told
from tests.doubles import ScriptedModel, Step, WordCounter, answer, calling
from tests.serving import settings_for
from tests.toolbox import Gate, StubTool, StubToolbox, answering

APPROVE, DENY = ToolDecision.APPROVE, ToolDecision.DENY


@asynccontextmanager
async def server(
    folder: Path, *scripts: list[Step], look: Any = None, more: tuple[StubTool, ...] = (), **settings: Any
) -> AsyncIterator[Talk]:
    """A server whose tool `look` needs approval."""
    model = ScriptedModel(*scripts)
    toolbox = StubToolbox(StubTool("look", look or answering("sun"), needs_approval=True), *more)
    made = settings_for(folder, **settings)
    async with open_services(made, model=model, tokens=WordCounter(), toolbox=toolbox) as running:
        yield Talk(running, model)


SCRIPT = (calling(("look", PARIS)), answer("Sunny."))


async def asked(talk: Talk, *tools: str, **fields: Any) -> Message:
    """Send, and wait until the reply awaits approval."""
    sent = await talk.send(settings=offering(*(tools or ("look",))), **fields)
    stream = await talk.running.services.stream.follow(ME, sent.reply_id, None)
    async for _ in stream:
        message = await talk.message(sent.reply_id)
        if message.reply is not None and message.reply.status is ReplyStatus.AWAITING_APPROVAL:
            break
    await stream.aclose()
    return message


async def resolve(talk: Talk, call: ToolCall, decision: ToolDecision = APPROVE, **fields: Any) -> ToolCall:
    command = ResolveToolCall(call.id, decision, **fields)
    return (await talk.running.services.approvals.resolve(ME, command)).call


async def test_a_call_that_needs_approval_waits_and_runs_when_it_is_given(tmp_path: Path) -> None:
    gate = Gate()
    gate.open.set()
    async with server(tmp_path, *SCRIPT, look=gate) as talk:
        message = await asked(talk)
        (call,) = calls_of(message)
        assert call.status is ToolCallStatus.AWAITING_APPROVAL
        assert gate.runs == []
        assert talk.running.worker.live == 0
        await resolve(talk, call)
        reply = await talk.settled(message.id)
        assert reply.text == "Sunny."
        (made,) = calls_of(reply)
        assert (made.status, made.result) == (ToolCallStatus.SUCCEEDED, "done")
        assert made.approval is not None
        assert made.approval.decision is APPROVE
        assert gate.runs == [call.id]


async def test_it_outlives_the_server(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT) as talk:
        message = await asked(talk)
    async with server(tmp_path, answer("Sunny.")) as talk:
        (call,) = calls_of(await talk.message(message.id))
        assert call.status is ToolCallStatus.AWAITING_APPROVAL
        await resolve(talk, call)
        reply = await talk.settled(message.id)
        assert reply.text == "Sunny."
        assert told(talk.model.requests[0]) == ["look", "sun"]


async def test_a_denial_is_told_with_its_comment(tmp_path: Path) -> None:
    gate = Gate()
    async with server(tmp_path, *SCRIPT, look=gate) as talk:
        message = await asked(talk)
        await resolve(talk, calls_of(message)[0], DENY, comment="Not today.")
        reply = await talk.settled(message.id)
        assert calls_of(reply)[0].status is ToolCallStatus.DENIED
        assert told(talk.model.requests[1]) == ["look", "The user denied this call. They say: Not today."]
        assert gate.runs == []


async def test_changed_arguments_are_what_runs_and_what_the_model_is_told(tmp_path: Path) -> None:
    async def echo(_context: object, arguments: Any) -> object:
        return arguments["city"]

    async with server(tmp_path, *SCRIPT, look=echo) as talk:
        message = await asked(talk)
        call = calls_of(message)[0]
        with pytest.raises(InvalidInput, match="city is missing"):
            await resolve(talk, call, arguments={"town": "Rome"})
        await resolve(talk, call, arguments={"city": "Rome"})
        made = calls_of(await talk.settled(message.id))[0]
        assert (made.result, made.arguments, made.arguments_text) == ("Rome", {"city": "Rome"}, PARIS)


async def test_what_is_remembered_is_not_asked_again_in_this_conversation_only(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT, calling(("look", PARIS)), answer("Still."), calling(("look", PARIS))) as talk:
        message = await asked(talk)
        await resolve(talk, calls_of(message)[0], remember=True)
        await talk.settled(message.id)
        again = await talk.say("Again", conversation_id=message.conversation_id, settings=offering("look"))
        assert again.text == "Still."
        elsewhere = await asked(talk)
        assert calls_of(elsewhere)[0].status is ToolCallStatus.AWAITING_APPROVAL


async def test_deciding_twice_is_harmless_and_deciding_otherwise_a_conflict(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT) as talk:
        message = await asked(talk)
        call = calls_of(message)[0]
        await resolve(talk, call)
        await resolve(talk, call)
        with pytest.raises(Conflict):
            await resolve(talk, call, DENY)
        assert (await talk.settled(message.id)).text == "Sunny."


async def test_of_many_decisions_at_once_one_counts(tmp_path: Path) -> None:
    gate = Gate()
    gate.open.set()
    async with server(tmp_path, *SCRIPT, look=gate) as talk:
        message = await asked(talk)
        call = calls_of(message)[0]
        decisions = [resolve(talk, call, APPROVE if n % 2 else DENY) for n in range(10)]
        results = await asyncio.gather(*decisions, return_exceptions=True)
        reply = await talk.settled(message.id)
        assert sum(isinstance(result, Conflict) for result in results) == 5
        assert len(gate.runs) == (calls_of(reply)[0].status is ToolCallStatus.SUCCEEDED)


async def test_other_calls_of_the_step_run_meanwhile_and_decisions_may_come_before_they_end(tmp_path: Path) -> None:
    gate = Gate()
    both = calling(("look", PARIS), ("slow", PARIS))
    async with server(tmp_path, both, answer("Sunny."), more=(StubTool("slow", gate),)) as talk:
        sent = await talk.send(settings=offering("look", "slow"))
        await gate.entered.wait()
        message = await talk.message(sent.reply_id)
        waiting, _ = calls_of(message)
        decided = await resolve(talk, waiting)
        assert decided.status is ToolCallStatus.QUEUED
        gate.open.set()
        reply = await talk.settled(sent.reply_id)
        assert [call.result for call in calls_of(reply)] == ["sun", "done"]
        assert len(gate.runs) == 1
        assert_paired(talk.model.requests[1])


async def test_the_reply_goes_on_when_the_last_call_is_decided(tmp_path: Path) -> None:
    both = calling(("look", PARIS), ("look", '{"city": "Rome"}'))
    async with server(tmp_path, both, answer("Sunny.")) as talk:
        message = await asked(talk)
        first, second = calls_of(message)
        await resolve(talk, first, DENY)
        status = (await talk.message(message.id)).reply
        assert status is not None
        assert status.status is ReplyStatus.AWAITING_APPROVAL
        await resolve(talk, second)
        reply = await talk.settled(message.id)
        assert [call.status for call in calls_of(reply)] == [ToolCallStatus.DENIED, ToolCallStatus.SUCCEEDED]


async def test_nobody_decides_in_time(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT, approval_timeout=1) as talk:
        message = await asked(talk)
        reply = await talk.settled(message.id)
        assert calls_of(reply)[0].status is ToolCallStatus.EXPIRED
        assert told(talk.model.requests[1]) == ["look", "Nobody approved this call in time. It was not made."]
        with pytest.raises(Conflict):
            await resolve(talk, calls_of(reply)[0])


async def test_a_stop_closes_it(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT) as talk:
        message = await asked(talk)
        await talk.running.services.replies.stop_reply(ME, message.id)
        reply = await talk.message(message.id)
        assert reply.reply is not None
        assert reply.reply.status is ReplyStatus.STOPPED
        assert calls_of(reply)[0].status is ToolCallStatus.CANCELLED
        with pytest.raises(Conflict):
            await resolve(talk, calls_of(reply)[0])
        talk.model.play(answer("Hello."))
        await talk.say("Next", conversation_id=message.conversation_id)
        assert_paired(talk.model.requests[0])


async def test_other_branches_and_conversations_go_on_meanwhile(tmp_path: Path) -> None:
    async with server(tmp_path, calling(("look", PARIS)), answer("Here.")) as talk:
        message = await asked(talk)
        assert message.parent_id is not None
        branch = await talk.running.services.replies.edit_message(ME, EditMessage(message.parent_id, "Otherwise"))
        elsewhere = await talk.send("New")
        for sent in (branch, elsewhere):
            assert (await talk.settled(sent.reply_id)).text == "Here."


async def feed_until(feed: AsyncGenerator[FeedEvent, None], kind: type) -> AsyncIterator[FeedEvent]:
    async with aclosing(feed):
        async for event in feed:
            yield event
            if isinstance(event.event, kind):
                return


async def test_readers_and_other_devices_are_told(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT) as talk:
        feed = talk.running.services.feed.follow(ME)
        await anext(feed)
        message = await asked(talk)
        watching = asyncio.create_task(talk.watch(message.id))
        requests = [event.event async for event in feed_until(feed, ToolApprovalRequested)]
        assert isinstance(requests[-1], ToolApprovalRequested)
        assert requests[-1].call.id == calls_of(message)[0].id
        await resolve(talk, calls_of(message)[0])
        assert isinstance((await watching)[-1].event, Ended)


async def test_a_tool_that_is_gone_when_it_is_approved_is_reported(tmp_path: Path) -> None:
    async with server(tmp_path, *SCRIPT) as talk:
        message = await asked(talk)
        toolbox = talk.running.services.toolbox
        assert isinstance(toolbox, StubToolbox)
        toolbox.take_away("look")
        await resolve(talk, calls_of(message)[0])
        reply = await talk.settled(message.id)
        assert calls_of(reply)[0].error_code is ToolErrorCode.UNAVAILABLE
        assert reply.text == "Sunny."
