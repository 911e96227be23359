"""An endpoint is read at the pace of whoever stores what it says, and what it said is not lost by that."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest
import uvloop
from aiohttp import web

from domain.errors import ProviderError, ReplyErrorCode
from domain.models import ChatChunk, FinishChunk, Model, TextChunk
from domain.replies import FinishReason
from providers.chat import ChatOptions, OpenAIChatModel, Provider
from tests.doubles import RecordingTelemetry
from tests.patience import PATIENCE_SECONDS
from tests.providers.asking import request
from tests.providers.certificate import encrypted
from tests.providers.endpoint import (
    Cut,
    Reply,
    ScriptedEndpoint,
    Step,
    compressed,
    finish,
    said,
    scripted_endpoint,
    stream,
)

Test = Callable[[ScriptedEndpoint], Coroutine[Any, Any, None]]
Run = Callable[[Coroutine[Any, Any, None]], None]
OPTIONS = ChatOptions(max_retries=0)


def everywhere(test: Test) -> Callable[[Run, bool, Path, pytest.MonkeyPatch], None]:
    """On each event loop, over plain and over encrypted connections."""

    async def whole(tls: SSLContext | None) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), scripted_endpoint(tls) as endpoint:
            await test(endpoint)

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])
    def on_a_loop(run: Run, is_encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tls, trusted = encrypted(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        monkeypatch.setattr("providers.client._LOOPBACK", frozenset())  # elsewhere the environment is listened to
        run(whole(tls if is_encrypted else None))

    return on_a_loop


@asynccontextmanager
async def paced(
    endpoint: ScriptedEndpoint, pace: Callable[[], Awaitable[None]], options: ChatOptions = OPTIONS
) -> AsyncIterator[OpenAIChatModel]:
    provider = Provider("test", endpoint.base_url, "", (Model("test-model", "test", is_default=True),))
    model = OpenAIChatModel([provider], options, RecordingTelemetry(), pace=pace)
    try:
        yield model
    finally:
        await model.aclose()


def ending(sent: asyncio.Event, *steps: Step) -> Reply:
    """An answer of these steps; `sent` is set when all of it was."""

    async def told(request: web.Request) -> web.StreamResponse:
        try:
            return await stream(*steps)(request)
        finally:
            sent.set()

    return told


async def heard() -> None:
    """Turns of the loop, until whoever listens has heard of what has happened."""
    for _ in range(100):
        await asyncio.sleep(0)


async def read(model: OpenAIChatModel) -> list[ChatChunk]:
    return [chunk async for chunk in model.stream(request())]


async def read_after(endpoint: ScriptedEndpoint, go_on: asyncio.Event) -> list[ChatChunk]:
    """Each turn comes at once; the first lets the rest of the answer be sent."""

    async def pace() -> None:
        go_on.set()
        await asyncio.sleep(0)

    async with paced(endpoint, pace) as model:
        return await read(model)


def text_of(chunks: list[ChatChunk]) -> str:
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk))


@everywhere
async def test_what_came_before_the_connection_broke_is_read_though_it_was_not_its_turn(
    endpoint: ScriptedEndpoint,
) -> None:
    go_on, broken = asyncio.Event(), asyncio.Event()
    endpoint.replies(ending(broken, said("Hello"), go_on, said(" there") + finish(), Cut()))

    async def pace() -> None:
        go_on.set()
        await broken.wait()
        await heard()

    async with paced(endpoint, pace) as model:
        chunks = await read(model)
    assert text_of(chunks) == "Hello there"
    assert isinstance(chunks[-1], FinishChunk)
    assert chunks[-1].finish_reason is FinishReason.STOP


@everywhere
async def test_what_arrives_between_two_turns_is_one_piece(endpoint: ScriptedEndpoint) -> None:
    go_on, sent = asyncio.Event(), asyncio.Event()
    words = [said(f" {number}") for number in range(5)]
    endpoint.replies(ending(sent, said("Hello"), go_on, *words, finish()))

    async def pace() -> None:
        go_on.set()
        await sent.wait()
        await heard()

    async with paced(endpoint, pace) as model:
        chunks = await read(model)
    assert [chunk.text for chunk in chunks if isinstance(chunk, TextChunk)] == [
        "Hello",
        "".join(f" {number}" for number in range(5)),
    ]


@everywhere
async def test_an_answer_larger_than_one_turn_arrives_whole(endpoint: ScriptedEndpoint) -> None:
    word, go_on = "word " * 1_000, asyncio.Event()
    endpoint.replies(stream(said("Hello"), go_on, *[said(word)] * 300, finish()))
    assert text_of(await read_after(endpoint, go_on)) == "Hello" + word * 300


@everywhere
async def test_a_compressed_answer_larger_than_one_turn_arrives_whole(endpoint: ScriptedEndpoint) -> None:
    word, go_on = "word " * 1_000, asyncio.Event()
    endpoint.replies(compressed("gzip", said("Hello"), go_on, *[said(word)] * 300, said(word) * 300, finish()))
    assert text_of(await read_after(endpoint, go_on)) == "Hello" + word * 600


@everywhere
async def test_a_connection_that_was_read_at_a_pace_is_used_again(endpoint: ScriptedEndpoint) -> None:
    for _ in range(3):
        endpoint.replies(stream(said("Hello"), said(" there"), finish()))

    async def pace() -> None:
        await heard()

    async with paced(endpoint, pace) as model:
        for _ in range(3):
            assert text_of(await read(model)) == "Hello there"
            await heard()
    assert len({received.connection for received in endpoint.requests}) == 1


@everywhere
async def test_a_connection_whose_answer_ended_between_two_turns_is_used_again(endpoint: ScriptedEndpoint) -> None:
    go_on, sent = asyncio.Event(), asyncio.Event()
    endpoint.replies(ending(sent, said("Hello"), go_on), stream(said("Hello"), finish()))

    async def pace() -> None:
        go_on.set()
        await sent.wait()
        await heard()

    async with paced(endpoint, pace) as model:
        with pytest.raises(ProviderError):
            await read(model)
        await heard()
        assert text_of(await read(model)) == "Hello"
    assert len({received.connection for received in endpoint.requests}) == 1


@everywhere
async def test_who_always_has_more_to_say_runs_into_the_total_limit(endpoint: ScriptedEndpoint) -> None:
    async def on_and_on(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(said("word ") * 100)
            await asyncio.sleep(0)  # writing to a connection that ends suspends nobody: nothing else had its turn

    async def pace() -> None:
        await asyncio.sleep(0)

    endpoint.replies(on_and_on)
    async with paced(endpoint, pace, ChatOptions(total_timeout=0.2, max_retries=0)) as model:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(ProviderError) as failure:
                await read(model)
    assert failure.value.code is ReplyErrorCode.PROVIDER_TIMEOUT


@everywhere
async def test_when_a_connection_was_closed_before_its_turn_no_other_is_read_in_its_place(
    endpoint: ScriptedEndpoint,
) -> None:
    turn, waits = asyncio.Event(), asyncio.Event()
    endpoint.replies(stream(said("Hello"), asyncio.Event()))

    async def pace() -> None:
        waits.set()
        await turn.wait()

    before = {int(name) for name in os.listdir("/proc/self/fd")}
    async with paced(endpoint, pace) as model:
        reading = asyncio.create_task(read(model))
        await waits.wait()
        opened = {int(name) for name in os.listdir("/proc/self/fd")} - before
        await model.aclose()
        await endpoint.client_left.wait()
        await heard()
        others = [socket.socketpair() for _ in range(10)]
        reused = [pair for pair in others if {pair[0].fileno(), pair[1].fileno()} & opened]
        for ours, theirs in others:
            ours.send(b"private")
            theirs.send(b"private")
        turn.set()
        await asyncio.wait([reading])
    assert reading.exception() is not None
    assert reused
    for pair in others:
        for end in pair:
            assert end.recv(100) == b"private"
            end.close()
