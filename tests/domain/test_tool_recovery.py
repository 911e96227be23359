"""What becomes of calls whose server died, or handed over: results are used again, nothing is done twice."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from domain import generation
from domain.conversations import Message
from domain.errors import ProviderError, ReplyErrorCode
from domain.models import TextChunk, ToolCallChunk
from domain.replies import ReplyStatus
from domain.tool_calls import ToolCallStatus, ToolErrorCode
from domain.tools import ToolContext
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.domain.test_tool_work import keeping, tasks_in
from tests.domain.test_tools import PARIS, assert_paired, calls_of, offering, told
from tests.doubles import ScriptedModel, Step, WordCounter, answer, calling
from tests.serving import settings_for
from tests.toolbox import Gate, StubTool, StubToolbox


@asynccontextmanager
async def server(folder: Path, database: str, tools: Sequence[StubTool], *scripts: list[Step]) -> AsyncIterator[Talk]:
    model = ScriptedModel(*scripts)
    settings = settings_for(folder, database_url=f"sqlite:///{folder}/{database}")
    async with open_services(settings, model=model, tokens=WordCounter(), toolbox=StubToolbox(*tools)) as running:
        yield Talk(running, model)


def as_it_is(folder: Path) -> None:
    """What a crash at this moment would leave, as copy.db."""
    with closing(sqlite3.connect(folder / "first.db")) as connection:
        connection.execute("VACUUM INTO ?", [str(folder / "copy.db")])


async def crashed_in_a_tool(folder: Path, *, idempotent: bool) -> tuple[Message, Talk, Gate]:
    """A reply whose server died while a tool ran; how another server ended it, and that tool's further runs."""
    gate, again = Gate(), Gate()
    again.open.set()
    async with server(folder, "first.db", [StubTool("look", gate)], calling(("look", PARIS))) as talk:
        sent = await talk.send(settings=offering("look"))
        await gate.entered.wait()
        as_it_is(folder)
    tools = [StubTool("look", again, idempotent=idempotent)]
    async with server(folder, "copy.db", tools, answer("Sunny.")) as talk:
        reply = await talk.settled(sent.reply_id)
        for request in talk.model.requests:
            assert_paired(request)
        return reply, talk, again


async def test_a_call_that_had_begun_is_reported_as_unknown_and_not_repeated(tmp_path: Path) -> None:
    reply, talk, again = await crashed_in_a_tool(tmp_path, idempotent=False)
    (call,) = calls_of(reply)
    assert (call.status, call.error_code) == (ToolCallStatus.FAILED, ToolErrorCode.INTERRUPTED)
    assert again.runs == []
    assert told(talk.model.requests[0]) == ["look", call.error]
    assert reply.reply is not None
    assert (reply.reply.status, reply.text) == (ReplyStatus.COMPLETE, "Sunny.")


async def test_a_call_of_an_idempotent_tool_is_repeated_under_its_id(tmp_path: Path) -> None:
    reply, talk, again = await crashed_in_a_tool(tmp_path, idempotent=True)
    (call,) = calls_of(reply)
    assert (call.status, call.result) == (ToolCallStatus.SUCCEEDED, "done")
    assert again.runs == [call.id]
    assert told(talk.model.requests[0]) == ["look", "done"]


async def test_results_that_are_there_are_used_again(tmp_path: Path) -> None:
    """One of two parallel calls had ended when the server died."""
    gate = Gate()
    both = calling(("keep", PARIS), ("wait", PARIS))
    tools = [StubTool("keep", keeping()), StubTool("wait", gate)]
    async with server(tmp_path, "first.db", tools, both) as talk:
        sent = await talk.send(settings=offering("keep", "wait"))
        await gate.entered.wait()
        async with talk.running.storage.read() as work:
            stored = await work.tool_calls.of(sent.reply_id)
        while not any(call.status is ToolCallStatus.SUCCEEDED for call in stored.values()):
            async with talk.running.storage.read() as work:
                stored = await work.tool_calls.of(sent.reply_id)
        as_it_is(tmp_path)
    async with server(tmp_path, "copy.db", tools, answer("Done.")) as talk:
        reply = await talk.settled(sent.reply_id)
        kept, unknown = calls_of(reply)
        assert await tasks_in(talk) == [kept.result]
        assert unknown.error_code is ToolErrorCode.INTERRUPTED
        assert told(talk.model.requests[0]) == ["keep+wait", str(kept.result), unknown.error]
        assert len(gate.runs) == 1


async def test_a_call_that_was_being_written_is_void_and_the_model_is_asked_again(tmp_path: Path) -> None:
    written = asyncio.Event()
    half: list[Step] = [*calling(("look", PARIS), text="Let me look. ")[:-2], written]
    assert isinstance(half[2], ToolCallChunk)
    runs = Gate()
    runs.open.set()
    async with server(tmp_path, "first.db", [StubTool("look", runs)], half) as talk:
        sent = await talk.send(settings=offering("look"))
        stream = await talk.running.services.stream.follow(ME, sent.reply_id, None)
        async for _ in stream:
            if any(call.arguments_text for call in calls_of(await talk.message(sent.reply_id))):
                break
        await stream.aclose()
        as_it_is(tmp_path)
    tools = [StubTool("look", runs)]
    async with server(tmp_path, "copy.db", tools, calling(("look", PARIS)), answer("Sunny.")) as talk:
        reply = await talk.settled(sent.reply_id)
        void, made = calls_of(reply)
        assert (void.status, made.status) == (ToolCallStatus.CANCELLED, ToolCallStatus.SUCCEEDED)
        assert talk.model.requests[0].unfinished == "Let me look. "
        assert told(talk.model.requests[1]) == ["look", "done"]
        assert reply.text == "Let me look. Sunny."
        assert runs.runs == [made.id]


@pytest.mark.parametrize("missing", [1, 2, 3])
async def test_a_call_in_which_an_answer_was_cut_is_void_when_the_model_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    monkeypatch.setattr(generation, "CUT_PAUSE_SECONDS", 0.0)
    cut = ProviderError(ReplyErrorCode.PROVIDER_UNAVAILABLE, "The connection broke.", retryable=True)
    broken_off = [*calling(("look", PARIS), text="Let me look. ")[:-missing], cut]
    runs = Gate()
    runs.open.set()
    scripts = broken_off, calling(("look", PARIS)), answer("Sunny.")
    async with server(tmp_path, "first.db", [StubTool("look", runs)], *scripts) as talk:
        reply = await talk.say(settings=offering("look"))
        void, made = calls_of(reply)
        assert (void.status, made.status) == (ToolCallStatus.CANCELLED, ToolCallStatus.SUCCEEDED)
        assert runs.runs == [made.id]
        assert told(talk.model.requests[-1]) == ["look", "done"]
        assert reply.text == "Let me look. Sunny."


async def test_what_was_said_after_a_call_is_not_gone_on_with_by_the_next_server_either(tmp_path: Path) -> None:
    gate, again = Gate(), Gate()
    again.open.set()
    started, *calls, end = calling(("look", PARIS))
    script: list[Step] = [started, *calls, TextChunk("One moment. "), end]
    async with server(tmp_path, "first.db", [StubTool("look", gate, idempotent=True)], script) as talk:
        sent = await talk.send(settings=offering("look"))
        await gate.entered.wait()
    async with server(tmp_path, "first.db", [StubTool("look", again, idempotent=True)], answer("Sunny.")) as talk:
        reply = await talk.settled(sent.reply_id)
        assert talk.model.requests[0].unfinished == ""
        assert [part.text for part in reply.parts] == ["", "One moment. ", "Sunny."]


async def test_a_server_that_shuts_down_in_a_call_leaves_it_to_the_next_as_unknown(tmp_path: Path) -> None:
    gate = Gate()
    async with server(tmp_path, "first.db", [StubTool("look", gate)], calling(("look", PARIS))) as talk:
        sent = await talk.send(settings=offering("look"))
        await gate.entered.wait()
    async with server(tmp_path, "first.db", [StubTool("look", gate)], answer("Sunny.")) as talk:
        reply = await talk.settled(sent.reply_id)
        assert [call.error_code for call in calls_of(reply)] == [ToolErrorCode.INTERRUPTED]
        assert len(gate.runs) == 1


async def test_what_a_lost_process_still_does_is_not_stored(tmp_path: Path) -> None:
    """The lease is taken from it while its tool runs: what the tool wrote in its unit of work is rolled back."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def run(context: ToolContext, arguments: Mapping[str, object]) -> object:
        entered.set()
        await go.wait()
        return await keeping()(context, arguments)

    tools = [StubTool("look", run)]
    async with server(tmp_path, "first.db", tools, calling(("look", PARIS)), answer("Sunny.")) as talk:
        sent = await talk.send(settings=offering("look"))
        await entered.wait()
        async with talk.running.storage.write() as work:
            await work.workers.leave(talk.running.worker.owner)
            await work.commit()
        go.set()
        reply = await talk.settled(sent.reply_id)
        assert await tasks_in(talk) == []
        assert [call.error_code for call in calls_of(reply)] == [ToolErrorCode.INTERRUPTED]
