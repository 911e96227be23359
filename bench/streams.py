"""The main case: so many streams at such a rate, from the first socket to the last token.

New streams begin at 100 a second, so set-up happens beside streaming. Every token is checked: its number must be the
next one, so that nothing lost or doubled goes unseen, and its departure tells how long it took.
"""

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil, floor

import aiohttp

from bench.dialects import Arrived, Broken, Client, Dialect
from bench.endpoint import CLOCK_MODULO
from bench.servers import Server

ARRIVALS_PER_SECOND = 100
TENTHS_TO_NANOSECONDS = 100_000
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    streams: int
    tokens: int
    rate: float
    readers: int = 1

    @property
    def longest_seconds(self) -> float:
        """A stream that takes longer has failed: four times what it should, and a minute."""
        return 4 * self.tokens / self.rate + PATIENCE_SECONDS

    @property
    def name(self) -> str:
        readers = f", {self.readers} readers each" if self.readers > 1 else ""
        return f"{self.streams} streams at {self.rate:g}/s of {self.tokens} tokens{readers}"


@dataclass(slots=True)
class Tally:
    """What readers saw. Delays are in milliseconds."""

    delays: "array[float]" = field(default_factory=lambda: array("d"))
    first: list[float] = field(default_factory=list)
    """From asking to the first token, less what the endpoint itself took."""
    by_second: Counter[int] = field(default_factory=Counter)
    """Tokens that arrived in each second of the monotonic clock."""
    frames: int = 0
    wrong: int = 0
    """Tokens that were lost, doubled or out of order."""
    longest_silence: float = 0
    failed: int = 0

    async def follow(self, texts: AsyncIterator[Arrived], asked: int, tokens: int) -> None:
        """Read one reply to its end. `asked` is when it was asked for, in nanoseconds."""
        expected, last = 0, 0
        async for arrived, text in texts:
            self.frames += 1
            if last:
                self.longest_silence = max(self.longest_silence, (arrived - last) / 1e6)
            last = arrived
            tokens_here = text.split()
            self.by_second[arrived // 1_000_000_000] += len(tokens_here)
            for token in tokens_here:
                number, departed, *asked_at = map(int, token.split(","))
                self.wrong += number != expected
                expected = number + 1
                self.delays.append(_since(departed, arrived))
                if asked_at:
                    self.first.append(_since(departed, arrived) + _lead(asked, asked_at[0]))
        self.wrong += abs(tokens - expected)

    def per_second(self, begin: float, end: float) -> float:
        """Tokens that arrived in a second on average, in whole seconds between the two."""
        seconds = range(ceil(begin), floor(end))
        return sum(self.by_second[second] for second in seconds) / max(1, len(seconds))


def _since(stamp: int, arrived: int) -> float:
    """Milliseconds from a departure to an arrival."""
    return (arrived / TENTHS_TO_NANOSECONDS - stamp) % CLOCK_MODULO / 10


def _lead(asked: int, stamp: int) -> float:
    """Milliseconds from asking until the endpoint heard of it."""
    return (stamp - asked / TENTHS_TO_NANOSECONDS) % CLOCK_MODULO / 10


@dataclass(frozen=True, slots=True)
class Streamed:
    """The outcome. Times in milliseconds, CPU in microseconds per token that was delivered to a reader."""

    load: Load
    cpu: float
    database_cpu: float | None
    delivered_per_second: float
    """To all readers, while all streams are open, or from the first to the last token where that is no second."""
    delay_p50: float
    delay_p99: float
    first_p50: float
    first_p99: float
    longest_silence: float
    tokens_per_frame: float
    peak_mebibytes: float
    wrong: int
    failed: int
    """Streams that were refused or broke off."""


async def measure(server: Server, dialect: Dialect, load: Load) -> Streamed:
    """Run the load against a server that has just been started."""
    tally = Tally()
    await _warmed(server, dialect)
    async with _session() as http:
        began, cpu, database = time.monotonic(), server.process.cpu_seconds(), _database(server)
        async with asyncio.TaskGroup() as group:
            for number in range(load.streams):
                await asyncio.sleep(began + number / ARRIVALS_PER_SECOND - time.monotonic())
                group.create_task(_stream(http, server, dialect, load, tally))
        seconds = time.monotonic() - began
        cpu, database = server.process.cpu_seconds() - cpu, _database(server) - database
    delivered = max(1, len(tally.delays))
    return Streamed(
        load,
        cpu / delivered * 1e6,
        None if server.database is None else database / delivered * 1e6,
        _rate_of_all(tally, load, began) or delivered / seconds,
        *percentiles(tally.delays),
        *percentiles(tally.first),
        tally.longest_silence,
        delivered / max(1, tally.frames),
        server.process.peak_mebibytes(),
        tally.wrong,
        tally.failed,
    )


def _rate_of_all(tally: Tally, load: Load, began: float) -> float:
    """While all streams are open: from a second after the last has begun until the first should end."""
    return tally.per_second(began + load.streams / ARRIVALS_PER_SECOND + 1, began + load.tokens / load.rate)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th."""
    ordered = sorted(values) or [float("nan")]
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def _database(server: Server) -> float:
    return 0 if server.database is None else server.database.cpu_seconds()


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_NEVER) as http:
        yield http


_NEVER = aiohttp.ClientTimeout(total=None, sock_read=120)


async def _warmed(server: Server, dialect: Dialect) -> None:
    """What a server does once in its life is not what a stream costs."""
    async with _session() as http, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(_stream(http, server, dialect, Load(1, 20, 100), Tally()))


async def _stream(http: aiohttp.ClientSession, server: Server, dialect: Dialect, load: Load, tally: Tally) -> None:
    clients: list[Client] = []
    try:
        async with asyncio.timeout(load.longest_seconds):
            clients += [await dialect.connect(http, server.process.url) for _ in range(load.readers)]
            asked = time.monotonic_ns()
            reply_id = await clients[0].send(f"tokens={load.tokens} rate={load.rate:g}")
            async with asyncio.TaskGroup() as readers:
                for client in clients:
                    readers.create_task(tally.follow(client.read(reply_id), asked, load.tokens))
    except* (Broken, aiohttp.ClientError, OSError):  # TimeoutError is an OSError
        tally.failed += 1
    finally:
        for client in clients:
            await client.close()
