"""The API over real sockets with nothing behind it but what a test scripts; and the smallest clients of its protocols.

For tests of protocols, where it does not matter what a reply is. Knows graph and the HTTP server, not the domain's
services.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from domain.accounts import Client
from domain.authentication import LOCAL, Authenticator, Watch
from domain.conversations import Message
from domain.errors import NotFound
from domain.events import TextDelta
from domain.ports import Telemetry
from domain.storage import Storage
from domain.streaming import StreamedEvent
from graph.context import Caller, Context, ServerFacts, Services
from graph.schema import build_schema
from graph.sockets import DirectSockets
from graph.transport import PATH, Limits, build_router
from tertulia.services import SystemClock, TimeOrderedIds
from tests.serving import listening

WATCH = 'subscription { replyStream(replyId: "reply") { cursor ... on TextDelta { text } } }'
ABSENT = 'subscription { replyStream(replyId: "absent") { cursor } }'
SECRET = "{ viewer { id } }"
SSE = {"accept": "text/event-stream"}
MULTIPART = {"accept": "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json"}

Step = str | asyncio.Event | Exception


class ScriptedStream:
    """Stands in for the reply stream: texts are yielded, events waited for, exceptions raised."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.refusal: Exception | None = None
        self.closed = asyncio.Event()

    async def follow(
        self, user_id: str, reply_id: str, after: str | None, push: object = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        if self.refusal is not None:
            raise self.refusal
        if reply_id != "reply":
            raise NotFound("reply", reply_id, "replyId")
        return self._play()

    async def _play(self) -> AsyncGenerator[StreamedEvent, None]:
        try:
            for number, step in enumerate(self.steps):
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield StreamedEvent("reply", f"cursor-{number}", TextDelta(0, step))
        finally:
            self.closed.set()


class ScriptedConversations:
    """Stands in for the conversations: there are no messages, and the viewer fails in a way that must not be told."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def viewer(self, user_id: str) -> None:
        raise RuntimeError("secret")

    async def messages(self, user_id: str, ids: list[str]) -> dict[str, Message]:
        self.asked.append(ids)
        return {}


@dataclass
class Api:
    url: str
    http: aiohttp.ClientSession
    stream: ScriptedStream
    conversations: ScriptedConversations = field(default_factory=ScriptedConversations)
    observed: list[tuple[str, str, str]] = field(default_factory=list)
    unexpected: list[tuple[str, BaseException]] = field(default_factory=list)

    def plays(self, *steps: Step) -> ScriptedStream:
        """What every reply stream plays from now on; what was recorded before is forgotten."""
        self.stream = ScriptedStream(*steps)
        self.observed.clear()
        self.unexpected.clear()
        self.conversations.asked.clear()
        return self.stream

    def post(self, query: str, headers: dict[str, str] | None = None) -> Any:
        return self.http.post(f"{self.url}/graphql", json={"query": query}, headers=headers)

    @asynccontextmanager
    async def socket(self, **options: Any) -> AsyncIterator["Socket"]:
        """A socket without its connection_init."""
        async with raw_socket(self.url, **options) as connection:
            yield Socket(connection)

    @asynccontextmanager
    async def ready_socket(self, **options: Any) -> AsyncIterator["Socket"]:
        async with self.socket(**options) as socket:
            await socket.send(type="connection_init")
            assert await socket.receive() == {"type": "connection_ack"}
            yield socket


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def subscribe(self, query: str, id_: str = "1") -> None:
        await self.send(type="subscribe", id=id_, payload={"query": query})

    async def receive(self) -> dict[str, Any]:
        frame = await self.connection.recv()
        assert isinstance(frame, str), "frames are text"
        message: dict[str, Any] = json.loads(frame)
        return message

    async def close_code(self) -> int | None:
        """Wait until the server closes, whatever it sends before."""
        try:
            while True:
                await self.connection.recv()
        except ConnectionClosed:
            return self.connection.close_code


def raw_socket(url: str, protocol: str = "graphql-transport-ws", origin: str | None = None, **options: Any) -> connect:
    return connect(
        url.replace("http", "ws") + "/graphql",
        subprotocols=[Subprotocol(protocol)],
        origin=None if origin is None else Origin(origin),
        compression=None,
        proxy=None,
        **options,
    )


@asynccontextmanager
async def api(
    limits: Limits | None = None, origins: tuple[str, ...] = (), graphiql_path: str | None = None
) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as http:
        made = Api("", http, ScriptedStream())
        services = cast(Services, _Services(made))

        async def context(_connection: HTTPConnection) -> Context:
            return Context(services, Caller(LOCAL, Client("test")))

        schema = build_schema(lambda id_, error: made.unexpected.append((id_, error)))
        app = FastAPI(openapi_url=None)
        router = build_router(schema, context, origins, limits, graphiql_path)
        app.include_router(router)
        app.add_middleware(DirectSockets, path=PATH, serve=router.serve_socket)
        async with listening(app) as made.url:
            yield made


def everybody() -> Authenticator:
    """Without accounts nothing is looked up."""
    return Authenticator(cast(Storage, None), SystemClock(), TimeOrderedIds(), None)


class _Services:
    def __init__(self, made: Api) -> None:
        self._made = made
        self.conversations = made.conversations
        self.facts = ServerFacts("0", 1, 1)
        self.authenticator = everybody()
        self.watch = Watch(self.authenticator, SystemClock(), cast(Telemetry, None))

    @property
    def stream(self) -> ScriptedStream:
        return self._made.stream

    def observe(self, *what: str) -> None:
        root_field, kind, outcome = what
        self._made.observed.append((root_field, kind, outcome))
