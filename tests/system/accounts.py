"""Clients with accounts, over the servers of a cluster: what they ask, with which token, and what they are told.

Unlike `Cluster.ask` nothing here takes an error for a fault: errors are what these experiments count.
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.system.cluster import Cluster
from tests.system.processes import ROOT

TOKENS = "errors { code message ... on RateLimitedError { retryAfterMs } } viewer { id } accessToken refreshToken"
REGISTER = f"mutation ($input: RegisterInput!) {{ register(input: $input) {{ {TOKENS} }} }}"
LOGIN = f"mutation ($input: LoginInput!) {{ login(input: $input) {{ {TOKENS} }} }}"
REFRESH = f"mutation ($input: RefreshSessionInput!) {{ refreshSession(input: $input) {{ {TOKENS} }} }}"
CHANGE = f"mutation ($input: ChangePasswordInput!) {{ changePassword(input: $input) {{ {TOKENS} }} }}"
DELETE = "mutation ($input: DeleteAccountInput!) { deleteAccount(input: $input) { errors { code message } deletedId } }"
VIEWER = "{ viewer { id } }"


def accounts_on(**more: str) -> dict[str, Any]:
    """Settings of servers with accounts, on which no limit is met but those that are given."""
    unlimited = {
        "TERTULIA_LOGINS_PER_ADDRESS": "0",
        "TERTULIA_REGISTRATIONS_PER_ADDRESS": "0",
        "TERTULIA_ANONYMOUS_OPERATIONS_PER_ADDRESS": "0",
    }
    own = {"TERTULIA_AUTH": "password", "TERTULIA_REGISTRATION": "open", "TERTULIA_SECRET_KEY": secrets.token_hex(32)}
    return own | unlimited | more


@dataclass(frozen=True, slots=True)
class SignedIn:
    user_id: str
    access: str
    refresh: str

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> "SignedIn":
        assert not payload["errors"], payload
        return cls(payload["viewer"]["id"], payload["accessToken"], payload["refreshToken"])


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is None where the answer was no JSON."""

    status: int
    text: str
    body: Any

    @property
    def code(self) -> str:
        """Of the first error, in the payload or above it; OK without any."""
        if not isinstance(self.body, dict):
            return f"HTTP {self.status}"
        payloads = [value for value in (self.body.get("data") or {}).values() if isinstance(value, dict)]
        errors = [error for payload in payloads for error in payload.get("errors") or ()]
        errors += [error.get("extensions", {}) for error in self.body.get("errors") or ()]
        return str(errors[0].get("code", "REFUSED")) if errors else "OK"

    def __getitem__(self, field: str) -> dict[str, Any]:
        found: dict[str, Any] = self.body["data"][field]
        return found


async def post(servers: Cluster, place: int, body: object, **headers: str) -> Answer:
    """Any body; an underscore in a header's name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with servers.http.post(f"{servers.address(place)}/graphql", json=body, headers=named) as response:
        text = await response.text()
    try:
        return Answer(response.status, text, json.loads(text))
    except ValueError:
        return Answer(response.status, text, None)


def asked(query: str, **given: object) -> dict[str, object]:
    """A request of an operation with these fields of its input."""
    return {"query": query, "variables": {"input": given}}


async def operate(servers: Cluster, place: int, query: str, token: str | None = None, **given: object) -> Answer:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return await post(servers, place, asked(query, **given), **headers)


async def register(servers: Cluster, place: int, email: str, password: str) -> SignedIn:
    return SignedIn.of((await operate(servers, place, REGISTER, email=email, password=password))["register"])


async def login(servers: Cluster, place: int, email: str, password: str) -> Answer:
    return await operate(servers, place, LOGIN, email=email, password=password)


async def operate_by_socket(
    servers: Cluster, place: int, token: str, operations: list[dict[str, object]]
) -> list[Answer]:
    """All of them at once on one socket; the answers in the order in which they come."""
    address = servers.address(place).replace("http", "ws") + "/graphql"
    answers: list[Answer] = []
    async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], compression=None) as socket:
        init = {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}
        await socket.send(json.dumps(init))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        for number, operation in enumerate(operations):
            await socket.send(json.dumps({"id": str(number), "type": "subscribe", "payload": operation}))
        while len(answers) < len(operations):
            text = str(await socket.recv())
            message = json.loads(text)
            if message["type"] in ("next", "error"):
                body = message["payload"] if message["type"] == "next" else {"errors": message["payload"]}
                answers.append(Answer(101, text, body))
    return answers


async def operate_by_stream(servers: Cluster, place: int, query: str, **given: object) -> Answer:
    """By server-sent events, whose first event is the answer."""
    answer = await post(servers, place, asked(query, **given), accept="text/event-stream")
    first = next(line for line in answer.text.splitlines() if line.startswith("data: {"))
    return Answer(answer.status, answer.text, json.loads(first.removeprefix("data: ")))


async def command(servers: Cluster, *words: str, typed: str = "", **more: str) -> tuple[int, str]:
    """`tertulia ...` beside the servers, on their database: its exit code and all that it said."""
    first = servers.servers[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tertulia.cli", *words),
        cwd=first.folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | first.environment | more,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(typed.encode())
    return process.returncode or 0, said.decode(errors="replace")
