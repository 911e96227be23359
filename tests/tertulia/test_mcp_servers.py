"""MCP servers that others wrote, in a configuration file: a model calls their tools over both transports."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp_server_time.server import create_server

from domain.accounts import LOCAL_USER_ID
from domain.conversations import GenerationSettings, Message
from domain.inputs import SendMessage
from domain.models import ToolAnswer
from domain.tool_calls import ToolCallStatus
from tertulia.services import Running, open_services
from tests.clients.conftest import find_node, missing
from tests.clients.scripts import HERE
from tests.doubles import ScriptedModel, WordCounter, answer, calling
from tests.patience import PATIENCE_SECONDS
from tests.serving import listening, settings_for

EVERYTHING = HERE / "node_modules" / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
Table = str
"""Of the configuration file."""


@asynccontextmanager
async def time_as_program() -> AsyncIterator[Table]:
    yield f'command = ["{sys.executable}", "-m", "mcp_server_time"]'


@asynccontextmanager
async def time_at_address() -> AsyncIterator[Table]:
    async with listening(create_server("UTC").streamable_http_app()) as url:
        yield f'url = "{url}/mcp"'


def node() -> str:
    if (found := find_node()) is None or not EVERYTHING.exists():
        missing("Node or server-everything is not on this machine; `make test` installs them")
    return found


@asynccontextmanager
async def everything_as_program() -> AsyncIterator[Table]:
    yield f"command = {json.dumps([node(), str(EVERYTHING)])}"


@asynccontextmanager
async def everything_at_address() -> AsyncIterator[Table]:
    command = (node(), "--import", str(HERE / "on-loopback.mjs"), str(EVERYTHING), "streamableHttp")
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=quiet)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (line := await process.stdout.readline()).startswith(b"{"):
                assert line, "it ended"
        port = json.loads(line)["port"]
        yield f'url = "http://127.0.0.1:{port}/mcp"'
    finally:
        process.kill()
        await process.wait()


@dataclass(frozen=True)
class Case:
    """A server, and a call with a part of its result."""

    serve: Callable[[], AbstractAsyncContextManager[Table]]
    tool: str
    arguments: dict[str, object]
    result: str


CONVERT: dict[str, object] = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
CASES = {
    "time, a program": Case(time_as_program, "convert_time", CONVERT, "+9.0h"),
    "time, at an address": Case(time_at_address, "convert_time", CONVERT, "+9.0h"),
    "everything, a program": Case(everything_as_program, "get-sum", {"a": 20, "b": 22}, "The sum of 20 and 22 is 42."),
    "everything, at an address": Case(everything_at_address, "get-structured-content", {"location": "Chicago"}, "36"),
}


@asynccontextmanager
async def with_server(case: Case, folder: Path, model: ScriptedModel) -> AsyncIterator[Running]:
    async with case.serve() as table:
        file = folder / "tertulia.toml"
        file.write_text(f"[mcp.others]\n{table}\n")
        settings = settings_for(folder, config=file, tools=(f"others_{case.tool}",))
        async with open_services(settings, model=model, tokens=WordCounter()) as running:
            yield running


async def reply_in(running: Running, settings: GenerationSettings | None = None) -> Message:
    message = SendMessage("Hi", settings=settings or GenerationSettings())
    sent = await running.services.replies.send_message(LOCAL_USER_ID, message)
    await running.services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
    return await running.services.conversations.message(LOCAL_USER_ID, sent.reply_id)


@pytest.mark.parametrize("name", CASES)
async def test_a_model_uses_a_tool_of_a_server_that_others_wrote(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    script = calling((f"others_{case.tool}", json.dumps(case.arguments)))
    model = ScriptedModel(script, answer("There."))
    async with with_server(case, tmp_path, model) as running:
        reply = await reply_in(running)
    (call,) = (part.call for part in reply.parts if part.call is not None)
    assert (call.status, call.error, reply.text) == (ToolCallStatus.SUCCEEDED, None, "There.")
    told = model.requests[1].messages[-1]
    assert isinstance(told, ToolAnswer)
    assert case.result in told.text


@pytest.mark.parametrize("name", CASES)
async def test_arguments_that_its_schema_forbids_do_not_reach_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = ScriptedModel(calling((f"others_{case.tool}", "{}")), answer("Sorry."))
    async with with_server(case, tmp_path, model) as running:
        reply = await reply_in(running)
    (call,) = (part.call for part in reply.parts if part.call is not None)
    assert call.status is ToolCallStatus.FAILED
    assert "is a required property" in (call.error or "")


async def test_what_it_says_is_wrong_is_told_to_the_model(tmp_path: Path) -> None:
    case = CASES["time, a program"]
    arguments = json.dumps({**CONVERT, "target_timezone": "Nowhere"})
    model = ScriptedModel(calling((f"others_{case.tool}", arguments)), answer("Sorry."))
    async with with_server(case, tmp_path, model) as running:
        await reply_in(running)
    told = model.requests[1].messages[-1]
    assert isinstance(told, ToolAnswer)
    assert "Nowhere" in told.text
