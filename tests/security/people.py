"""People with accounts on a real server, as a victim and an attacker meet there: over HTTP and by socket.

Knows how tokens are carried, and nothing of what the tests try with them.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from domain.ports import ChatModel, Clock
from domain.tools import Toolbox
from graph.transport import Limits
from persistence import schema
from persistence.database import Database
from tests.graph.protocol import MULTIPART, SSE, Socket, raw_socket
from tests.postgres import drop_database, new_database
from tests.serving import Serving, serving, settings_for

FRIEND = "https://friend.example"
PASSWORD = "correct horse battery"
SIGNED_IN = "viewer { id } accessToken refreshToken errors { code message }"
REGISTER = f"mutation ($input: RegisterInput!) {{ register(input: $input) {{ {SIGNED_IN} }} }}"
LOGIN = f"mutation ($input: LoginInput!) {{ login(input: $input) {{ {SIGNED_IN} }} }}"
REFRESH = f"mutation ($input: RefreshSessionInput!) {{ refreshSession(input: $input) {{ {SIGNED_IN} }} }}"
LOGOUT = "mutation ($input: LogoutInput!) { logout(input: $input) { errors { code } } }"
CHANGE = f"mutation ($input: ChangePasswordInput!) {{ changePassword(input: $input) {{ {SIGNED_IN} }} }}"
NEW_KEY = 'mutation { createApiKey(input: {name: "robot"}) { secret apiKey { id } errors { code } } }'
SEND = """mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id } message { id } reply { id status } errors { code message } } }"""
WHO = "{ viewer { id } }"
FEED = """subscription ($after: String, $id: ID) {
  conversationEvents(after: $after, conversationId: $id) { __typename cursor } }"""
STREAM = "subscription ($id: ID!) { replyStream(replyId: $id) { __typename cursor } }"
_numbers = count(1)


@dataclass
class Person:
    """Somebody who is signed in."""

    server: Serving
    email: str
    user_id: str
    access: str
    refresh: str
    password: str = field(default=PASSWORD, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return bearing(self.access)

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return await self.server.ask(query, self.headers, **variables)

    async def do(self, mutation: str, **input_: Any) -> dict[str, Any]:
        """A mutation's payload, which must be without errors."""
        payload = await self.attempt(mutation, **input_)
        assert not payload["errors"], payload["errors"]
        return payload

    async def attempt(self, mutation: str, **input_: Any) -> dict[str, Any]:
        """A mutation's payload."""
        (payload,) = (await self.ask(mutation, input=input_)).values()
        found: dict[str, Any] = payload
        return found

    async def log_in(self) -> "Person":
        """The same person on another device."""
        return await log_in(self.server, self.email, self.password)

    async def new_key(self) -> tuple[str, str]:
        """An API key's id, and the key."""
        payload = (await self.ask(NEW_KEY))["createApiKey"]
        return payload["apiKey"]["id"], payload["secret"]

    async def code(self) -> str | None:
        """Why the access token holds no longer; None while it does."""
        return await code_of(self.server, self.access)

    async def sessions(self) -> set[str]:
        found = await self.ask("{ viewer { sessions { id } } }")
        return {each["id"] for each in found["viewer"]["sessions"]}


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def code_of(server: Serving, token: str) -> str | None:
    body = await server.post({"query": WHO}, bearing(token))
    return body["errors"][0]["extensions"]["code"] if "errors" in body else None


async def sign_in(server: Serving, mutation: str, password: str, **input_: Any) -> Person:
    (payload,) = (await server.ask(mutation, input=input_ | {"password": password})).values()
    assert not payload["errors"], payload["errors"]
    user_id = payload["viewer"]["id"]
    return Person(server, input_["email"], user_id, payload["accessToken"], payload["refreshToken"], password)


async def register(server: Serving, name: str = "somebody") -> Person:
    return await sign_in(server, REGISTER, PASSWORD, email=f"{name}{next(_numbers)}@example.org")


async def log_in(server: Serving, email: str, password: str = PASSWORD) -> Person:
    return await sign_in(server, LOGIN, password, email=email)


async def refreshed(server: Serving, token: str) -> tuple[str, str] | str:
    """A new access and refresh token, or the code of the refusal."""
    payload = (await server.ask(REFRESH, input={"refreshToken": token}))["refreshSession"]
    if payload["errors"]:
        return str(payload["errors"][0]["code"])
    return payload["accessToken"], payload["refreshToken"]


@asynccontextmanager
async def guarded(
    folder: Path,
    model: ChatModel | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    toolbox: Toolbox | None = None,
    **changes: Any,
) -> AsyncIterator[Serving]:
    """A server with accounts that anybody may make."""
    many = {"registrations_per_address": 0, "anonymous_operations_per_address": 0}
    settings = settings_for(folder, **{"auth": "password", "registration": "open"} | many | changes)
    async with serving(settings, model, limits=limits, clock=clock, toolbox=toolbox) as running:
        yield running


@asynccontextmanager
async def own_database(kind: str, folder: Path, postgres: str | None) -> AsyncIterator[dict[str, Any]]:
    """The settings of a migrated database of the kind."""
    if kind == "sqlite":
        yield {"database_url": f"sqlite:///{folder}/test.db"}
        return
    assert postgres is not None
    url = await new_database(postgres)
    database = Database(url)
    await schema.upgrade(database)
    await database.close()
    try:
        yield {"database_url": url, "secret_key": token_urlsafe(48)}
    finally:
        await drop_database(postgres, url)


@asynccontextmanager
async def socket_of(url: str, token: str | None, **options: Any) -> AsyncIterator[Socket]:
    """A socket on which connection_init was sent, whatever the server says to it."""
    async with raw_socket(url, **options) as connection:
        socket = Socket(connection)
        payload = {} if token is None else {"Authorization": f"Bearer {token}"}
        await socket.send(type="connection_init", payload=payload)
        yield socket


@asynccontextmanager
async def ready_socket(url: str, token: str) -> AsyncIterator[Socket]:
    async with socket_of(url, token) as socket:
        assert await socket.receive() == {"type": "connection_ack"}
        yield socket


FRAMES = {"sse": (SSE, b"\n\n"), "multipart": (MULTIPART, b"\r\n--graphql")}


async def streamed(
    server: Serving, token: str, protocol: str, query: str, **variables: Any
) -> AsyncGenerator[dict[str, Any], None]:
    """The results of a stream over HTTP, until it says that it is complete. Raises ClientError when it breaks off."""
    headers, end = FRAMES[protocol]
    body = {"query": query, "variables": variables}
    async with server.http.post(f"{server.url}/graphql", json=body, headers=headers | bearing(token)) as response:
        assert response.status == 200, await response.text()
        left = b""
        async for piece in response.content.iter_any():
            *frames, left = (left + piece).split(end)
            for frame in frames:
                if (found := _result(frame)) is not None:
                    yield found


def _result(frame: bytes) -> dict[str, Any] | None:
    start = frame.find(b"{")
    if start < 0:
        return None
    found: dict[str, Any] = json.loads(frame[start:])
    return found.get("payload", found) or None
