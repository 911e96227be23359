"""What accepting a message costs: `sendMessage` over HTTP or over sockets, at the most, at a rate, and all at once.

The client shares its core with the database and must be cheap: one request is one prepared body. `measure` starts the
server that is asked for; everything above it takes any that is up. No reply is made meanwhile, unless that is wanted:
what a reply costs is measured in `bench/streams.py`.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_urlsafe

import aiohttp
import orjson

from bench.processes import Watched
from bench.servers import Kind, endpoint, server

SEND = """mutation Send($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id title } message { id } reply { id status } errors { __typename message } } }"""
REGISTER = """mutation Register($input: RegisterInput!) { register(input: $input) {
  accessToken errors { message } } }"""
ACCOUNTS = {
    "TERTULIA_AUTH": "password",
    "TERTULIA_REGISTRATION": "open",
    "TERTULIA_REGISTRATIONS_PER_ADDRESS": "0",
    "TERTULIA_SENDS_PER_MINUTE": "1000",
    "TERTULIA_MAX_LIVE_REPLIES_PER_USER": "1000",
    "TERTULIA_TOKENS_PER_DAY": "2000000000",
    "TERTULIA_TOKENS_PER_MONTH": "2000000000",
}
"""Every limit is on, and as wide as it goes."""
LOGS = {"TERTULIA_LOG_LEVEL": "info"}
USERS = 64
CLIENTS = 16
AT_ONCE = 200
RATE = 250.0
PASSWORD = "correct horse battery staple"
TEXT = "What is the capital of France, and since when? tokens=5 rate=1000"
WARM_UP = 300
Send = Callable[[str | None], Awaitable[str]]
"""Sends a message into a conversation, or into a new one, and gives the conversation's id. Raises Failed."""


class Failed(Exception):
    """A send was not answered with what it stored."""


@dataclass(frozen=True, slots=True)
class Sends:
    """What came of many sends. Milliseconds are wall time at the client, CPU is that of the server."""

    sends: int
    failed: int
    per_second: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(slots=True)
class Tally:
    """Sends as they come back."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def send(self, send: Send, conversation_id: str | None = None, due: float | None = None) -> str | None:
        begun, found = time.perf_counter() if due is None else due, None
        try:
            found = await send(conversation_id)
        except Failed as failed:
            self.failures.append(str(failed))
        self.seconds.append(time.perf_counter() - begun)
        return found

    def result(self, wall: float, cpu: float) -> Sends:
        ordered = sorted(self.seconds)
        sends = len(ordered)
        p50, p99 = ordered[sends // 2], ordered[min(sends - 1, sends * 99 // 100)]
        return Sends(sends, len(self.failures), sends / wall, 1000 * cpu / sends, 1000 * p50, 1000 * p99)


def variables(conversation_id: str | None, text: str = TEXT) -> dict[str, object]:
    given = {"text": text} if conversation_id is None else {"text": text, "conversationId": conversation_id}
    return {"input": given}


def stored_in(answer: dict[str, object]) -> str:
    """The conversation of a send by its answer. Raises Failed."""
    payload = (answer.get("data") or {}).get("sendMessage") or {}  # type: ignore[attr-defined]
    if answer.get("errors") or payload.get("errors") or not payload.get("conversation"):
        raise Failed(str(answer)[:500])
    return str(payload["conversation"]["id"])


@asynccontextmanager
async def over_http(server: Watched, clients: int, tokens: Sequence[str] = ()) -> AsyncIterator[list[Send]]:
    """So many clients, each with a connection that it keeps, and with a token of those that are given by turns."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300)
    async with aiohttp.ClientSession(connector=connector) as session:

        def client(token: str | None) -> Send:
            headers = {"content-type": "application/json"}
            if token is not None:
                headers["authorization"] = f"Bearer {token}"

            async def send(conversation_id: str | None) -> str:
                body = orjson.dumps({"query": SEND, "variables": variables(conversation_id)})
                try:
                    async with session.post(f"{server.url}/graphql", data=body, headers=headers) as response:
                        return stored_in(orjson.loads(await response.read()))
                except (aiohttp.ClientError, OSError, orjson.JSONDecodeError) as error:
                    raise Failed(repr(error)) from error

            return send

        yield [client(tokens[number % len(tokens)] if tokens else None) for number in range(clients)]


@asynccontextmanager
async def over_sockets(server: Watched, clients: int, tokens: Sequence[str] = ()) -> AsyncIterator[list[Send]]:
    """So many clients, each with a socket (graphql-transport-ws) on which it sends one message after another."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        sends = []
        for number in range(clients):
            socket = await session.ws_connect(f"{server.url}/graphql", protocols=("graphql-transport-ws",))
            stack.push_async_callback(socket.close)
            token = tokens[number % len(tokens)] if tokens else None
            payload = {} if token is None else {"Authorization": f"Bearer {token}"}
            await socket.send_json({"type": "connection_init", "payload": payload})
            await _message(socket, "connection_ack")
            sends.append(_by_socket(socket))
        yield sends


def _by_socket(socket: aiohttp.ClientWebSocketResponse) -> Send:
    numbers, lock = itertools.count(), asyncio.Lock()

    async def send(conversation_id: str | None) -> str:
        async with lock:
            payload = {"query": SEND, "variables": variables(conversation_id)}
            message = {"type": "subscribe", "id": str(next(numbers)), "payload": payload}
            await socket.send_str(orjson.dumps(message).decode())
            answer = await _message(socket, "next")
            await _message(socket, "complete")
            return stored_in(answer["payload"])  # type: ignore[arg-type]

    return send


async def _message(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict[str, object]:
    received = await socket.receive()
    if received.type is not aiohttp.WSMsgType.TEXT:
        raise Failed(f"{received.type} {received.data} {received.extra}")
    message: dict[str, object] = orjson.loads(received.data)
    if message["type"] != kind:
        raise Failed(str(message)[:500])
    return message


async def registered(server: Watched, users: int) -> list[str]:
    """Access tokens of so many new users."""
    tokens = []
    async with aiohttp.ClientSession() as session:
        for number in range(users):
            given = {"email": f"user{number}-{time.monotonic_ns()}@example.com", "password": PASSWORD}
            body = {"query": REGISTER, "variables": {"input": given}}
            async with session.post(f"{server.url}/graphql", json=body) as response:
                answer = await response.json(content_type=None)
            tokens.append(answer["data"]["register"]["accessToken"])
    return tokens


async def saturated(server: Watched, sends: Sequence[Send], seconds: float) -> Sends:
    """Every client sends its next message, each into a new conversation, when the last one was answered."""
    tally, cpu, begun = Tally(), server.cpu_seconds(), time.perf_counter()

    async def client(send: Send) -> None:
        while time.perf_counter() - begun < seconds:
            await tally.send(send)

    await asyncio.gather(*map(client, sends))
    return tally.result(time.perf_counter() - begun, server.cpu_seconds() - cpu)


async def paced(server: Watched, sends: Sequence[Send], rate: float, seconds: float) -> Sends:
    """Messages come at their times, whatever became of those before: their latency counts from when they were due.

    Every second one goes on with the conversation of an earlier one of the same client.
    """
    tally, cpu, begun = Tally(), server.cpu_seconds(), time.perf_counter()
    running = []
    earlier: list[list[str]] = [[] for _ in sends]

    async def client(number: int, due: float) -> None:
        conversation_id = earlier[number].pop() if earlier[number] else None
        found = await tally.send(sends[number], conversation_id, due)
        if found is not None and conversation_id is None:
            earlier[number].append(found)

    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        running.append(asyncio.create_task(client(number % len(sends), due)))
    await asyncio.gather(*running)
    return tally.result(time.perf_counter() - begun, server.cpu_seconds() - cpu)


async def at_once(server: Watched, sends: Sequence[Send]) -> Sends:
    """Every client sends one message in the same moment."""
    tally, cpu, begun = Tally(), server.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*map(tally.send, sends))
    return tally.result(time.perf_counter() - begun, server.cpu_seconds() - cpu)


async def warmed_up(sends: Sequence[Send]) -> None:
    """Caches are filled and connections are open."""
    tally = Tally()
    for start in range(0, WARM_UP, len(sends)):
        await asyncio.gather(*map(tally.send, sends[: WARM_UP - start]))
    if tally.failures:
        raise Failed(tally.failures[0])


@dataclass(frozen=True, slots=True)
class Accepting:
    """What a server did with messages: as many as it could take, at a rate, and 200 at once."""

    most: Sends
    paced: Sends
    at_once: Sends


async def measure(
    kind: Kind, seconds: float, *, sockets: bool = False, accounts: bool = False, worker: bool = False
) -> Accepting:
    """Of a fresh server of ours with its logs on. With `accounts` 64 users send, with every limit on."""
    environment = LOGS | (ACCOUNTS | {"TERTULIA_SECRET_KEY": token_urlsafe(48)} if accounts else {})
    if not worker:
        environment |= {"TERTULIA_WORKER": "false"} if kind.postgres else {"TERTULIA_MAX_LIVE_REPLIES": "1"}
    over = over_sockets if sockets else over_http
    async with endpoint() as upstream, server(kind, upstream, **environment) as running:
        tokens = await registered(running.process, USERS) if accounts else []
        if not worker and not kind.postgres:
            await _occupy(running.process, tokens)
        async with over(running.process, CLIENTS, tokens) as sends:
            await warmed_up(sends)
            most = await saturated(running.process, sends, seconds)
        async with over(running.process, AT_ONCE, tokens) as sends:
            await at_once(running.process, sends)  # which opens the connections
            together = await at_once(running.process, sends)
            steady = await paced(running.process, sends, RATE, seconds)
        return Accepting(most, steady, together)


async def _occupy(server: Watched, tokens: Sequence[str]) -> None:
    """Give the only place there is to a reply that does not end: SQLite has no servers that make none."""
    async with over_http(server, 1, tokens) as (send,):
        await send(None)
