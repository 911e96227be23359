"""An endpoint is read at the pace of whoever stores what it says, and what it said is not lost by that."""

import asyncio

from aiohttp import web

from domain.conversations import ModelParams, Role
from domain.models import ChatRequest, FinishChunk, Model, PromptMessage, TextChunk
from domain.replies import FinishReason
from providers.chat import ChatOptions, OpenAIChatModel, Provider
from tests.doubles import RecordingTelemetry
from tests.providers.endpoint import Cut, ScriptedEndpoint, finish, said, stream


async def test_what_came_before_the_connection_broke_is_read_though_it_was_not_its_turn(
    endpoint: ScriptedEndpoint,
) -> None:
    go_on, broken = asyncio.Event(), asyncio.Event()
    answer = stream(said("Hello"), go_on, said(" there") + finish(), Cut())

    async def told(request: web.Request) -> web.StreamResponse:
        try:
            return await answer(request)
        finally:
            broken.set()

    endpoint.replies(told)
    provider = Provider("test", endpoint.base_url, "", (Model("test-model", "test", is_default=True),))

    async def pace() -> None:
        """Until the connection has broken, after all that was to come."""
        go_on.set()
        await broken.wait()
        for _ in range(100):  # turns of the loop, until the client has heard of it
            await asyncio.sleep(0)

    model = OpenAIChatModel([provider], ChatOptions(max_retries=0), RecordingTelemetry(), pace=pace)
    request = ChatRequest("test-model", (PromptMessage(Role.USER, ("Hi",)),), ModelParams(), "msg_1", "conv_1")
    try:
        chunks = [chunk async for chunk in model.stream(request)]
    finally:
        await model.aclose()
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk)) == "Hello there"
    assert isinstance(chunks[-1], FinishChunk)
    assert chunks[-1].finish_reason is FinishReason.STOP
