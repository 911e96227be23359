"""What tools store in their unit of work, and what becomes of it when they fail, dawdle or are stopped."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from domain import tool_contexts
from domain.inputs import ContinueReply
from domain.replies import ReplyStatus
from domain.tasks import Task, TaskPriority, TaskStatus
from domain.tool_calls import ToolCallStatus, ToolErrorCode
from domain.tools import ToolContext, ToolError
from tests.domain.conftest import ME, Opening, Talk
from tests.domain.test_tools import PARIS, assert_paired, calls_of, offering, outcome
from tests.doubles import answer, calling
from tests.patience import PATIENCE_SECONDS
from tests.toolbox import Gate, StubTool


def keeping(fails: BaseException | None = None, waits: asyncio.Event | None = None) -> Any:
    """A tool's function that stores a task in its unit of work."""

    async def run(context: ToolContext, _arguments: Mapping[str, object]) -> object:
        work = await context.work()
        here = context.conversation.id
        made = Task(context.new_id("task"), ME, here, "Buy", "", TaskPriority.LOW, TaskStatus.PENDING, context.now)
        await work.tasks.add(made)
        if waits is not None:
            await waits.wait()
        if fails is not None:
            raise fails
        return made.id

    return run


async def tasks_in(talk: Talk) -> list[str]:
    async with talk.running.storage.read() as work:
        return [task.id for task in await work.tasks.of(ME, None, 10)]


async def test_what_a_tool_stored_is_committed_with_its_result(opening: Opening) -> None:
    async with opening(StubTool("look", keeping())) as talk:
        call, _ = await outcome(talk, "look")
        assert await tasks_in(talk) == [call.result]


async def test_what_a_tool_stored_before_it_failed_is_not_kept(opening: Opening) -> None:
    async with opening(StubTool("look", keeping(ToolError("no")))) as talk:
        call, _ = await outcome(talk, "look")
        assert call.error_code is ToolErrorCode.REFUSED
        assert await tasks_in(talk) == []


async def test_many_calls_at_once_take_turns_for_their_units_of_work(opening: Opening) -> None:
    many = [("look", PARIS)] * 40
    async with opening(StubTool("look", keeping()), scripts=[calling(*many), answer("Done.")]) as talk:
        reply = await talk.say(settings=offering("look"))
        assert [call.status for call in calls_of(reply)] == [ToolCallStatus.SUCCEEDED] * 40
        assert len(set(await tasks_in(talk))) == 10
        assert_paired(talk.model.requests[1])


async def test_a_unit_of_work_that_does_not_end_is_rolled_back(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_contexts, "WORK_SECONDS", 0.1)
    async with opening(StubTool("look", keeping(waits=asyncio.Event()))) as talk:
        call, _ = await outcome(talk, "look")
        assert call.error_code is ToolErrorCode.TIMED_OUT
        assert await tasks_in(talk) == []


async def test_a_stop_ends_the_tools_that_run(opening: Opening) -> None:
    gate = Gate()
    async with opening(StubTool("look", gate)) as talk:
        sent = await talk.send(settings=offering("look"))
        await gate.entered.wait()
        await talk.running.services.replies.stop_reply(ME, sent.reply_id)
        reply = await talk.message(sent.reply_id)
        assert reply.reply is not None
        assert reply.reply.status is ReplyStatus.STOPPED
        (call,) = calls_of(reply)
        assert (call.status, call.error_code) == (ToolCallStatus.CANCELLED, ToolErrorCode.INTERRUPTED)
        async with talk.running.storage.read() as work:
            stored = await work.tool_calls.of(sent.reply_id)
        assert [call.status for call in stored.values()] == [ToolCallStatus.CANCELLED]
        talk.model.play(answer("Hello."))
        await talk.say("Next", conversation_id=reply.conversation_id)
        assert_paired(talk.model.requests[0])


async def test_deleting_the_conversation_ends_the_tools_that_run(opening: Opening) -> None:
    gate = Gate()
    async with opening(StubTool("look", gate)) as talk:
        sent = await talk.send(settings=offering("look"))
        await gate.entered.wait()
        await talk.running.services.conversations.delete(ME, sent.conversation_id)
        await talk.running.services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
        async with talk.running.storage.read() as work:
            message = (await work.messages.watched([sent.reply_id]))[sent.reply_id]
        assert [call.status for call in calls_of(message)] == [ToolCallStatus.CANCELLED]


async def test_a_reply_that_was_stopped_in_a_call_can_be_continued(opening: Opening) -> None:
    gate = Gate()
    async with opening(StubTool("look", gate)) as talk:
        sent = await talk.send(settings=offering("look"))
        await gate.entered.wait()
        await talk.running.services.replies.stop_reply(ME, sent.reply_id)
        talk.model.play(answer("Sunny."))
        again = await talk.running.services.replies.continue_reply(ME, ContinueReply(sent.reply_id))
        reply = await talk.settled(again.reply_id)
        assert reply.text == "Sunny."
        assert [call.status for call in calls_of(reply)] == [ToolCallStatus.CANCELLED]
        assert_paired(talk.model.requests[0])
        assert len(gate.runs) == 1


async def test_a_reply_that_reached_the_limit_of_steps_can_be_continued_by_as_many(opening: Opening) -> None:
    async with opening(StubTool("look", keeping()), scripts=[calling(("look", PARIS))]) as talk:
        limited = await talk.say(settings=offering("look"))
        talk.model.play(calling(("look", PARIS)), answer("Done."))
        again = await talk.running.services.replies.continue_reply(ME, ContinueReply(limited.id))
        reply = await talk.settled(again.reply_id)
        assert reply.text == "Done."
        made = [call for call in calls_of(reply) if call.status is ToolCallStatus.SUCCEEDED]
        assert len(made) == len(await tasks_in(talk)) == 8
        for request in talk.model.requests:
            assert_paired(request)


async def test_a_reply_that_failed_by_mistaken_calls_can_be_continued(opening: Opening) -> None:
    async with opening(StubTool("look", keeping()), scripts=[calling(("look", "{"))]) as talk:
        failed = await talk.say(settings=offering("look"))
        talk.model.play(calling(("look", PARIS)), answer("Done."))
        again = await talk.running.services.replies.continue_reply(ME, ContinueReply(failed.id))
        reply = await talk.settled(again.reply_id)
        assert reply.text == "Done."
        assert len(await tasks_in(talk)) == 1
