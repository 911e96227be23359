"""What a subscription costs while nothing happens: memory, set-up and the CPU of waiting, socket included.

Clients are here, in the measuring process; the server is another, whose resident memory is read before and after.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from bench.processes import Watched
from bench.wire import Wire, connected

SOCKETS = 5_000
WARM_UP = 200
"""Sockets that come and go first: caches fill, and the allocator takes its first arenas."""
AT_ONCE = 50
IDLE_SECONDS = 10.0
FEED = "subscription { conversationEvents { cursor __typename } }"
STREAM = "subscription ($id: ID!) { replyStream(replyId: $id) { cursor __typename ... on TextDelta { text } } }"
SEND = 'mutation { sendMessage(input: {text: "tokens=9 rate=0.001"}) { reply { id } errors { message } } }'

Subscribe = Callable[[Wire], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Idle:
    sockets: int
    kibibytes_each: float
    set_up_microseconds: float
    """CPU of the server, for the socket, its connection_init and what was asked for on it."""
    idle_percent: float
    """Of one core, with all of them open."""


async def follow_conversations(wire: Wire) -> None:
    """Until the first event has come."""
    wire.send(type="subscribe", id="1", payload={"query": FEED})
    assert (await wire.receive())["type"] == "next"


async def follow_reply(wire: Wire) -> None:
    """Send a message, and follow its reply, of which nothing comes for a long time."""
    wire.send(type="subscribe", id="1", payload={"query": SEND})
    sent = await wire.receive()
    assert (await wire.receive())["type"] == "complete"
    reply_id = sent["payload"]["data"]["sendMessage"]["reply"]["id"]
    wire.send(type="subscribe", id="2", payload={"query": STREAM, "variables": {"id": reply_id}})
    assert (await wire.receive())["type"] == "next"


async def measure(
    server: Watched, subscribe: Subscribe = follow_conversations, sockets: int = SOCKETS, path: str = "/graphql"
) -> Idle:
    """On a server that has just started."""
    for wire in await _opened(server.url, path, subscribe, WARM_UP):
        wire.close()
    await asyncio.sleep(1)
    memory, cpu = server.resident_kibibytes(), server.cpu_seconds()
    wires = await _opened(server.url, path, subscribe, sockets)
    set_up = server.cpu_seconds() - cpu
    await asyncio.sleep(1)
    memory = server.resident_kibibytes() - memory
    cpu = server.cpu_seconds()
    await asyncio.sleep(IDLE_SECONDS)
    idle = server.cpu_seconds() - cpu
    assert not any(wire.lost for wire in wires)
    for wire in wires:
        wire.close()
    return Idle(sockets, memory / sockets, set_up / sockets * 1e6, idle / IDLE_SECONDS * 100)


async def _opened(url: str, path: str, subscribe: Subscribe, count: int) -> list[Wire]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def opened() -> Wire:
        async with turns:
            wire = await connected(url, path)
            await subscribe(wire)
            return wire

    return await asyncio.gather(*(opened() for _ in range(count)))
