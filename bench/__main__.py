"""`python -m bench`: every case, one after another, then one table; `--only WORDS` for some, `--quick` for a look.

A run of all cases writes `bench/RESULTS.md`. It ends with 1 when a server lost or doubled a token, when one of ours
refused or broke off anything, and when a case could not be measured.
"""

import argparse
import asyncio
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from secrets import token_urlsafe

import aiohttp
import uvloop

from bench import idle, reads, report, sends
from bench.dialects import OURS, PEER, SSE, Dialect
from bench.processes import LOAD_CORES
from bench.servers import FASTAPI, NODE_JS, POSTGRESQL, SQLITE, STRAWBERRY, Kind, available, endpoint, server
from bench.streams import Load, Streamed, measure

PEERS: tuple[tuple[Kind, Dialect], ...] = ((NODE_JS, PEER), (FASTAPI, SSE), (STRAWBERRY, PEER))
BOTH: tuple[tuple[Kind, Dialect], ...] = ((SQLITE, OURS), (POSTGRESQL, OURS))
SENDS_SECONDS = 6
SCRAPES_APART_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """`run` gives the text for the table, and whether all was well; it is told whether to be quick."""

    title: str
    run: Callable[[bool], Awaitable[tuple[str, bool]]]


def streams(load: Load, kinds: Sequence[tuple[Kind, Dialect]]) -> Case:
    async def run(quick: bool) -> tuple[str, bool]:
        size = replace(load, streams=max(5, load.streams // 20), tokens=load.tokens // 10) if quick else load
        found = [(kind.name, await _streamed(kind, dialect, size)) for kind, dialect in kinds if available(kind)]
        missing = [f"\n\nNot here, so not measured: {kind.name}." for kind, _ in kinds if not available(kind)]
        ours = [one for name, one in found if name.startswith("Tertulia")]
        well = not any(one.wrong for _, one in found) and not any(one.failed for one in ours)
        return report.table(report.HEAD, report.stream_rows(found)) + "".join(missing), well

    return Case(load.name, run)


async def _streamed(kind: Kind, dialect: Dialect, load: Load, **environment: str) -> Streamed:
    async with endpoint() as upstream, server(kind, upstream, **environment) as running:
        found = await measure(running, dialect, load)
    print(
        f"    {kind.name}: {found.cpu:.1f} us/token, delay {found.delay_p50:.0f} / {found.delay_p99:.0f} ms", flush=True
    )
    return found


async def with_everything_on(quick: bool) -> tuple[str, bool]:
    """Accounts, limits, metrics and logs, against none of them. All streams are of one user."""
    load = Load(10, 50, 50) if quick else Load(100, 250, 50)
    off = await _streamed(SQLITE, OURS, load)
    environment = sends.LOGS | sends.ACCOUNTS | {"TERTULIA_SECRET_KEY": token_urlsafe(48)}
    async with endpoint() as upstream, server(SQLITE, upstream, **environment) as running:
        token = (await sends.registered(running.process, 1))[0]
        async with _scraped(f"{running.process.url}/metrics"):
            on = await measure(running, replace(OURS, token=token), load)
    rows = report.stream_rows([("all off", off), ("all on", on)])
    well = on.wrong == off.wrong == on.failed == off.failed == 0
    return report.table(("Tertulia, SQLite", "CPU us/token", "times all off", *report.HEAD[3:]), rows), well


@asynccontextmanager
async def _scraped(url: str) -> AsyncIterator[None]:
    """As Prometheus does it, but more often."""

    async def scrape() -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as http:
            while True:
                async with http.get(url) as response:
                    await response.read()
                await asyncio.sleep(SCRAPES_APART_SECONDS)

    async with asyncio.TaskGroup() as group:
        scraping = group.create_task(scrape())
        yield
        scraping.cancel()


async def idle_subscriptions(quick: bool) -> tuple[str, bool]:
    async with endpoint() as upstream, server(SQLITE, upstream) as running:
        found = await idle.measure(running.process, sockets=500 if quick else idle.SOCKETS)
    row = (f"{found.kibibytes_each:.1f}", f"{found.set_up_microseconds:,.0f}", f"{found.idle_percent:.1f}")
    return report.table(("KiB each, socket included", "set-up, us of CPU", "idle, % of a core"), [row]), True


async def sending(quick: bool) -> tuple[str, bool]:
    """PostgreSQL without a worker, so that only the sends are counted, then with one; SQLite."""
    head = ("server", "most/s", "CPU ms/send", "at 250/s: p50 / p99 ms", "200 at once: p99 ms", "failed")
    rows, failures = [], 0
    for kind, worker in ((POSTGRESQL, False), (POSTGRESQL, True), (SQLITE, False)):
        found = await sends.measure(kind, 2 if quick else SENDS_SECONDS, worker=worker)
        failed = found.most.failed + found.paced.failed + found.at_once.failed
        failures += failed
        rows.append(
            (
                f"{kind.name}, {'with its replies made' if worker else 'sends alone'}",
                f"{found.most.per_second:.0f}",
                f"{found.most.cpu_ms:.2f}",
                f"{found.paced.p50_ms:.0f} / {found.paced.p99_ms:.0f}",
                f"{found.at_once.p99_ms:.0f}",
                str(failed),
            )
        )
        print(f"    {rows[-1]}", flush=True)
    return report.table(head, rows), failures == 0


async def long_conversations(quick: bool) -> tuple[str, bool]:
    head = ("case", "server", "ms, long", "ms, short", "latency ratio", "CPU ratio")
    rows = []
    for kind in (SQLITE, POSTGRESQL):
        found = await (reads.measure(kind, long=500, others=500) if quick else reads.measure(kind))
        rows += [
            (
                *(one.case, kind.name, f"{one.large.latency_ms:.1f}", f"{one.small.latency_ms:.1f}"),
                *(f"{one.latency_ratio:.2f}", f"{one.cpu_ratio:.2f}"),
            )
            for one in found
        ]
    return report.table(head, rows), True


CASES = (
    streams(Load(200, 750, 50), (*BOTH, *PEERS)),
    streams(Load(1_000, 750, 20), BOTH),
    streams(Load(200, 250, 50), (*BOTH, *PEERS)),
    Case("Sends", sending),
    Case("Idle subscriptions", idle_subscriptions),
    Case("Long conversations and long lists", long_conversations),
    Case("Accounts, limits, metrics and logs, 100 streams of one user", with_everything_on),
    streams(Load(100, 250, 50, readers=4), (*BOTH, PEERS[0], PEERS[2])),
    streams(Load(50, 250, 50), (*BOTH, *PEERS)),
    streams(Load(50, 750, 50), (*BOTH, *PEERS)),
)


async def run(cases: Sequence[Case], quick: bool) -> bool:
    """Whether all was well. SIGTERM ends it as Ctrl-C does: what it started is stopped first."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    sections, well, began = [], True, time.monotonic()
    for case in cases:
        print(f"{time.monotonic() - began:6.0f} s  {case.title} ...", flush=True)
        text, right = await _measured(case, quick)
        sections.append((case.title, text if right else f"{text}\n\nFAILED"))
        well &= right
        if len(cases) == len(CASES) and not quick:
            report.write(sections)
    print("\nSmall sizes: these figures say nothing.\n" if quick else "")
    for title, text in sections:
        print(f"{title}\n\n{text}\n")
    return well


async def _measured(case: Case, quick: bool) -> tuple[str, bool]:
    """One case that cannot be measured takes none of the others with it."""
    try:
        return await case.run(quick)
    except Exception as error:
        traceback.print_exc()
        return f"Not measured: {error!r}", False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help="the cases with these words in their titles")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works; writes no results")
    options = parser.parse_args()
    words = options.only.lower().split()
    cases = [case for case in CASES if all(word in case.title.lower() for word in words)]
    if not cases:
        parser.error(f"no such case; there are: {', '.join(case.title for case in CASES)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, LOAD_CORES)
    sys.exit(0 if uvloop.run(run(cases, options.quick)) else 1)


if __name__ == "__main__":
    main()
