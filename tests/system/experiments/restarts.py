"""A rolling restart under load: every process in turn gets SIGTERM, ends and starts again, as in a deploy.

To each that ends, a client that never reads and an open stream over HTTP are connected. Clients connect again
wherever they get an answer, as behind a load balancer.
"""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.system.cluster import Cluster, cluster
from tests.system.load import Load, Talk, faults_in, scripts, send, stored_replies
from tests.system.polling import until
from tests.system.processes import ServerProcess
from tests.system.report import LONG, Outcome, Progress, processes
from tests.system.tokens import Script
from tests.system.watching import STREAM

RATE = 20
LIVE = 12
EXIT_SECONDS = 35.0
LARGE = Script("large", 1, 100, pad=300_000)
SUBSCRIPTIONS = 30
"""To a large reply, from a client that reads none of them: more than any buffer holds."""


@dataclass
class Restarts:
    done: int = 0
    exits: list[float] = field(default_factory=list)
    live: int = 0
    """Replies that were STREAMING on a process when it got SIGTERM."""
    unready: int = 0
    """Processes that said by /readyz that they are going."""
    stalled: int = 0
    streams: int = 0
    codes: Counter[int | None] = field(default_factory=Counter)


async def restart_in_turn(scale: float, seed: int, progress: Progress) -> Outcome:
    rounds, restarts = max(1, round(10 * scale)), Restarts()
    # The short form leaves five seconds of the time of grace to a machine that stalls.
    grace, spare, tokens = (20, 0, (40, 500)) if scale >= LONG else (8, 5, (20, 160))
    async with cluster(processes(scale), TERTULIA_SHUTDOWN_GRACE=str(grace)) as servers:
        large = await _large_reply(servers)
        load = Load(servers, scripts(seed, tokens, RATE), readers=2)
        async with load.running(LIVE):
            await asyncio.sleep(2)
            for n in range(rounds):
                for server in servers.servers[: None if scale >= LONG else 1]:
                    await _restart(servers, server, large, restarts)
                    progress(f"round {n + 1} of {rounds}, {restarts.done} restarts, {len(load.talks)} replies")
        faults = await faults_in(servers, load.talks)
        first, short = await _first_attempts(servers, load.talks, grace - spare)
    return _judged(restarts, load, faults, first, short)


async def _large_reply(servers: Cluster) -> Talk:
    made = await send(servers, LARGE)
    await until(lambda: servers.rows("SELECT 1 FROM replies WHERE id = $1 AND status = 'COMPLETE'", made.reply_id))
    return made


async def _restart(servers: Cluster, server: ServerProcess, large: Talk, restarts: Restarts) -> None:
    async with _stalled_reader(server.url, large.reply_id), _open_stream(servers, server, restarts):
        restarts.stalled += 1
        restarts.live += len(await until(lambda: servers.streaming(server.worker)))
        began = time.monotonic()
        ending = asyncio.create_task(server.terminate())
        restarts.unready += await _says_so(servers, server, ending)
        restarts.codes[await ending] += 1
        restarts.exits.append(time.monotonic() - began)
    await servers.start(server)
    restarts.done += 1


async def _says_so(servers: Cluster, server: ServerProcess, ending: "asyncio.Task[int]") -> bool:
    """Whether /readyz turns to 503, or nobody is let in any more, while the process still works on."""
    while not ending.done():
        try:
            async with servers.http.get(f"{server.url}/readyz") as response:
                if response.status == 503:
                    return True
        except (aiohttp.ClientError, OSError, TimeoutError):
            return not ending.done()
        await asyncio.sleep(0.05)
    return False


@asynccontextmanager
async def _stalled_reader(url: str, reply_id: str) -> AsyncIterator[None]:
    """A WebSocket client that asks for a great deal and reads nothing of it, nor any close frame."""
    port = int(url.rpartition(":")[2])
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", port))
        await loop.sock_sendall(raw, _handshake(port))
        await loop.sock_recv(raw, 1_024)
        await loop.sock_sendall(raw, _masked('{"type": "connection_init"}'))
        for n in range(SUBSCRIPTIONS):
            payload = {"query": STREAM, "variables": {"id": reply_id}}
            await loop.sock_sendall(raw, _masked(json.dumps({"id": str(n), "type": "subscribe", "payload": payload})))
        await asyncio.sleep(0.3)
        yield


def _handshake(port: int) -> bytes:
    lines = (
        *("GET /graphql HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
        *("Sec-WebSocket-Protocol: graphql-transport-ws", "", ""),
    )
    return "\r\n".join(lines).encode()


def _masked(text: str) -> bytes:
    """A text frame of a client, with a mask of zeros."""
    data = text.encode()
    return b"\x81" + bytes([0x80 | 126]) + len(data).to_bytes(2, "big") + bytes(4) + data


@asynccontextmanager
async def _open_stream(servers: Cluster, server: ServerProcess, restarts: Restarts) -> AsyncIterator[None]:
    """A reply followed as server-sent events for longer than any grace."""
    made = await send(servers, Script(f"sse-{restarts.done}", 600, RATE), servers.servers.index(server))
    query = f'subscription {{ replyStream(replyId: "{made.reply_id}") {{ cursor }} }}'
    headers = {"accept": "text/event-stream"}
    endless = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=endless) as http,
        http.post(f"{server.url}/graphql", json={"query": query}, headers=headers) as response,
    ):
        restarts.streams += bool(await response.content.readany())
        yield


async def _first_attempts(servers: Cluster, talks: list[Talk], grace: float) -> tuple[int, int]:
    """Of the replies whose generation takes less than the time of grace: those that needed one attempt, and all."""
    stored = await stored_replies(servers, talks)
    attempts = [
        stored[made.reply_id]["generation"]["attempts"] if stored[made.reply_id]["status"] == "COMPLETE" else 0
        for made in talks
        if made.reply_id in stored and made.script.seconds < grace
    ]
    return attempts.count(1), len(attempts)


def _judged(restarts: Restarts, load: Load, faults: list[str], first: int, short: int) -> Outcome:
    cuts = Counter[str]()
    for made in load.talks:
        for watcher in made.watchers:
            cuts += watcher.seen.cuts
    outcome = Outcome(
        f"{restarts.done} restarts over {restarts.live} live replies, with {restarts.stalled} stalled readers and "
        f"{restarts.streams} open streams"
    )
    share = first / short if short else 0.0
    outcome.figures += [
        f"{first} of {short} short replies in their first attempt ({100 * share:.1f} %)",
        "reconnects: " + ", ".join(f"{n} {why}" for why, n in cuts.most_common()),
        f"{restarts.unready} said 503 or let nobody in",
    ]
    outcome.within("slowest exit", max(restarts.exits, default=float("nan")), EXIT_SECONDS)
    outcome.expect(restarts.live >= restarts.done, "too few live replies for so many restarts")
    outcome.expect(restarts.streams == restarts.done, "some streams over HTTP never began")
    outcome.expect(share >= 0.95, f"only {100 * share:.1f} % in their first attempt")
    outcome.expect(cuts["1012"] > 0, "no socket was closed with 1012")
    outcome.expect(set(restarts.codes) <= {0, -15}, f"exit codes {dict(restarts.codes)}")
    outcome.found(faults, len(load.talks), "replies with two readers each")
    return outcome
