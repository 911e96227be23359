"""The smallest readers of a reply over each transport: they yield events, and raise Broken when the stream is cut."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
from websockets.exceptions import WebSocketException

from tests.graph.protocol import MULTIPART, SSE, Socket, raw_socket

STREAM = """subscription ($id: ID!, $after: String) { replyStream(replyId: $id, after: $after) {
  cursor __typename
  ... on ReplySnapshot { reply { text } }
  ... on TextDelta { text }
  ... on ReplyFinished { reply { text status } } } }"""

Event = dict[str, Any]
Read = Callable[[str, str, str | None], AsyncGenerator[Event, None]]


class Broken(Exception):
    """The connection went, or the stream ended before it was whole."""


@asynccontextmanager
async def broken_when_cut() -> AsyncIterator[None]:
    try:
        yield
    except (WebSocketException, aiohttp.ClientError, OSError, EOFError) as error:
        raise Broken from error


async def by_socket(url: str, reply_id: str, after: str | None) -> AsyncGenerator[Event, None]:
    async with broken_when_cut(), raw_socket(url) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init")
        await socket.receive()
        payload = {"query": STREAM, "variables": {"id": reply_id, "after": after}}
        await socket.send(type="subscribe", id="1", payload=payload)
        while (message := await socket.receive())["type"] == "next":
            yield message["payload"]["data"]["replyStream"]
        assert message["type"] == "complete", message


async def by_sse(url: str, reply_id: str, after: str | None) -> AsyncGenerator[Event, None]:
    async for frame in _frames(url, reply_id, after, SSE, b"\n\n"):
        if frame.startswith(b"event: complete"):
            return
        if frame.startswith(b"event: next"):
            yield json.loads(frame.removeprefix(b"event: next\ndata: "))["data"]["replyStream"]
    raise Broken


async def by_multipart(url: str, reply_id: str, after: str | None) -> AsyncGenerator[Event, None]:
    async for part in _frames(url, reply_id, after, MULTIPART, b"\r\n--graphql"):
        if part.startswith(b"--\r\n"):
            return
        body = json.loads(part.partition(b"\r\n\r\n")[2])
        if body:
            yield body["payload"]["data"]["replyStream"]
    raise Broken


async def _frames(
    url: str, reply_id: str, after: str | None, headers: dict[str, str], end: bytes
) -> AsyncGenerator[bytes, None]:
    variables = {"id": reply_id, "after": after}
    async with broken_when_cut(), aclosing(frames_of(url, STREAM, variables, headers, end)) as frames:
        async for frame in frames:
            yield frame


async def frames_of(
    url: str, query: str, variables: dict[str, str | None], headers: dict[str, str], end: bytes
) -> AsyncGenerator[bytes, None]:
    """What a stream over HTTP sends, cut where its frames end; the last is what came after the last end."""
    body = {"query": query, "variables": variables}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/graphql", json=body, headers=headers) as response,
    ):
        left = b""
        async for piece in response.content.iter_any():
            *frames, left = (left + piece).split(end)
            for frame in frames:
                yield frame
        yield left


class Reader:
    """What a client holds of a reply. With `resumes` it goes on from its cursor; without, the snapshot replaces."""

    def __init__(self, read: Read, reply_id: str, *, resumes: bool) -> None:
        self._read = read
        self._reply_id = reply_id
        self._resumes = resumes
        self._cursor: str | None = None
        self.text = ""
        self.final: Event | None = None

    async def follow(self, url: str, seen: Callable[[int], None]) -> None:
        """Read to the end, however often the connection is cut; `seen` is told of the growing text."""
        while self.final is None:
            try:
                async for event in self._read(url, self._reply_id, self._cursor if self._resumes else None):
                    self._apply(event)
                    seen(len(self.text))
                assert self.final is not None, "the stream ended as if it were whole"
            except Broken:
                continue

    def _apply(self, event: Event) -> None:
        before = self.text
        self._cursor = event["cursor"]
        match event["__typename"]:
            case "TextDelta":
                self.text += event["text"]
            case "ReplySnapshot":
                self.text = event["reply"]["text"]
            case "ReplyFinished":
                self.final = event["reply"]
        assert self.text.startswith(before), "text once shown is never taken back"
