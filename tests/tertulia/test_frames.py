"""The extension by which the application writes text frames at once: what it sends, and when it will not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from tertulia.frames import EXTENSION
from tests.serving import listening

pytestmark = pytest.mark.asyncio
Write = Callable[[bytes], bool]


def app(serve: Callable[[WebSocket, Write], Awaitable[None]]) -> Any:
    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await serve(WebSocket(scope, receive, send), scope["extensions"][EXTENSION]["write"])

    return served


async def received(serve: Callable[[WebSocket, Write], Awaitable[None]], **options: Any) -> list[str | bytes]:
    """What a client gets until the server closes."""
    async with listening(app(serve)) as url, connect(url.replace("http", "ws"), proxy=None, **options) as client:
        return [frame async for frame in client]


async def test_frames_of_both_ways_arrive_in_their_order() -> None:
    async def serve(socket: WebSocket, write: Write) -> None:
        await socket.accept()
        assert write("eins é".encode())
        await socket.send_text("zwei")
        assert write(b"x" * 70_000)
        await socket.close()

    assert await received(serve) == ["eins é", "zwei", "x" * 70_000]


async def test_nothing_is_written_before_the_handshake_or_after_the_close() -> None:
    written: list[bool] = []

    async def serve(socket: WebSocket, write: Write) -> None:
        written.append(write(b"too early"))
        await socket.accept()
        await socket.close()
        written.append(write(b"too late"))

    assert await received(serve) == []
    assert written == [False, False]


async def test_nothing_is_written_when_the_client_has_left() -> None:
    left = asyncio.Event()
    written: list[bool] = []

    async def serve(socket: WebSocket, write: Write) -> None:
        await socket.accept()
        await socket.receive_text()
        await socket.receive()
        written.append(write(b"nobody is there"))
        left.set()

    async with listening(app(serve)) as url:
        async with connect(url.replace("http", "ws"), proxy=None) as client:
            await client.send("Hello")
        await left.wait()
    assert written == [False]


async def test_who_reads_slowly_gets_all_of_it_by_the_way_that_waits() -> None:
    waited: list[int] = []

    async def serve(socket: WebSocket, write: Write) -> None:
        await socket.accept()
        for number in range(64):
            text = f"{number} ".encode() * 100_000
            if not write(text):
                waited.append(number)
                await socket.send_text(text.decode())
        await socket.close()

    frames = await received(serve, max_queue=1, max_size=None)
    assert [str(frame).split(" ", 1)[0] for frame in frames] == [str(number) for number in range(64)]
    assert waited
