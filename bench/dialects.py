"""How clients of each server ask for a reply and read it: the same work said in four ways.

A reader gets texts with the time of their arrival. It holds one connection, opened before the clock runs.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import orjson

Arrived = tuple[int, str]
"""The monotonic clock in nanoseconds, and a text."""


class Broken(Exception):
    """A server refused a request, or ended a stream before its end."""


class Dialect(Protocol):
    async def connect(self, http: aiohttp.ClientSession, url: str) -> "Client": ...


class Client(Protocol):
    async def send(self, text: str) -> str:
        """Ask; the id of the reply. Raises Broken."""
        ...

    def read(self, reply_id: str) -> AsyncIterator[Arrived]:
        """The reply's text as it comes, to its end. Raises Broken."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GraphQL:
    """graphql-transport-ws, everything over one socket."""

    send: str
    watch: str
    token: str | None = None
    path: str = "/graphql"

    async def connect(self, http: aiohttp.ClientSession, url: str) -> "SocketClient":
        socket = await http.ws_connect(f"{url}{self.path}", protocols=["graphql-transport-ws"], max_msg_size=0)
        payload = {"payload": {"authorization": f"Bearer {self.token}"}} if self.token else {}
        await socket.send_str(json.dumps({"type": "connection_init"} | payload))
        acknowledged = _message(await socket.receive())
        if acknowledged["type"] != "connection_ack":
            raise Broken(acknowledged)
        return SocketClient(self, socket)


class SocketClient:
    def __init__(self, dialect: GraphQL, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._dialect = dialect
        self._socket = socket

    async def send(self, text: str) -> str:
        await self._subscribe("send", self._dialect.send, {"text": text})
        answer = None
        while True:
            message = _message(await self._socket.receive())
            if message["type"] == "next":
                answer = message["payload"]
            elif message["type"] == "complete":
                return _reply_id(answer)
            elif message["type"] == "error":
                raise Broken(message)

    async def read(self, reply_id: str) -> AsyncIterator[Arrived]:
        await self._subscribe("watch", self._dialect.watch, {"id": reply_id})
        while True:
            frame = await self._socket.receive()
            arrived = time.monotonic_ns()
            message = _message(frame)
            if message["type"] == "next":
                if text := _text(message["payload"]):
                    yield arrived, text
            elif message["type"] == "complete":
                return
            elif message["type"] != "ping":
                raise Broken(message)

    async def _subscribe(self, id_: str, query: str, variables: dict[str, str]) -> None:
        message = {"id": id_, "type": "subscribe", "payload": {"query": query, "variables": variables}}
        await self._socket.send_str(orjson.dumps(message).decode())

    async def close(self) -> None:
        await self._socket.close()


def _message(frame: aiohttp.WSMessage) -> dict[str, Any]:
    if frame.type is not aiohttp.WSMsgType.TEXT:
        raise Broken(f"the socket was closed: {frame}")
    message: dict[str, Any] = orjson.loads(frame.data)
    return message


def _reply_id(answer: dict[str, Any] | None) -> str:
    if answer is None or answer.get("errors") or answer["data"]["sendMessage"].get("errors"):
        raise Broken(answer)
    sent = answer["data"]["sendMessage"]
    return str(sent["reply"]["id"] if "reply" in sent else sent["id"])


def _text(payload: dict[str, Any]) -> str:
    """Of a delta, or of what a snapshot has already."""
    if payload.get("errors"):
        raise Broken(payload)
    event = payload["data"]["replyStream"]
    if (text := event.get("text")) is not None:
        return str(text)
    if event["__typename"] == "ReplySnapshot":
        return "".join(part.get("text", "") for part in event["reply"]["parts"])
    return ""


@dataclass(frozen=True, slots=True)
class ServerSentEvents:
    """A POST whose answer is the stream."""

    async def connect(self, http: aiohttp.ClientSession, url: str) -> "EventClient":
        return EventClient(http, url)


class EventClient:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def send(self, text: str) -> str:
        return text

    async def read(self, reply_id: str) -> AsyncIterator[Arrived]:
        async with self._http.post(f"{self._url}/chat", json={"text": reply_id}, raise_for_status=True) as response:
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    return
                yield time.monotonic_ns(), orjson.loads(line[6:])["text"]
        raise Broken("the answer has no end")

    async def close(self) -> None:
        """Nothing: the session keeps connections."""


OURS = GraphQL(
    "mutation ($text: String!) { sendMessage(input: {text: $text}) { reply { id } errors { code message } } }",
    "subscription ($id: ID!) { replyStream(replyId: $id) { __typename cursor "
    "... on ReplySnapshot { reply { id status parts { ... on TextPart { id text } } } } "
    "... on PartAdded { part { id } } ... on TextDelta { partId text } "
    "... on ReplyFinished { reply { id status generation { usage { outputTokens } } "
    "parts { ... on TextPart { id text } } } } } }",
)
PEER = GraphQL(
    "mutation ($text: String!) { sendMessage(text: $text) { id } }",
    "subscription ($id: ID!) { replyStream(replyId: $id) { __typename ... on TextDelta { text } "
    "... on ReplyFinished { reply { id text } } } }",
)
SSE = ServerSentEvents()
