"""`python -m bench`: every case, one after another, then one table; `--only WORDS` for some, `--quick` for a look.

A run of all cases writes `bench/RESULTS.md`. It ends with 1 when a token was lost or doubled by a server of ours.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from secrets import token_urlsafe

import uvloop

from bench import idle, reads, report, sends
from bench.dialects import OURS, PEER, SSE, Dialect
from bench.processes import LOAD_CORES
from bench.servers import FASTAPI, NODE_JS, POSTGRESQL, SQLITE, STRAWBERRY, Kind, available, endpoint, server
from bench.streams import Load, Streamed, measure

PEERS: tuple[tuple[Kind, Dialect], ...] = ((NODE_JS, PEER), (FASTAPI, SSE), (STRAWBERRY, PEER))
BOTH: tuple[tuple[Kind, Dialect], ...] = ((SQLITE, OURS), (POSTGRESQL, OURS))
SENDS_SECONDS = 6


@dataclass(frozen=True, slots=True)
class Case:
    """`run` gives the text for the table, and whether all was well; it is told whether to be quick."""

    title: str
    run: Callable[[bool], Awaitable[tuple[str, bool]]]


def streams(load: Load, kinds: Sequence[tuple[Kind, Dialect]]) -> Case:
    async def run(quick: bool) -> tuple[str, bool]:
        size = replace(load, streams=max(5, load.streams // 20), tokens=load.tokens // 10) if quick else load
        found = [(kind.name, await _streamed(kind, dialect, size)) for kind, dialect in kinds if available(kind)]
        well = all(one.wrong == one.failed == 0 for name, one in found if name.startswith("Tertulia"))
        return report.table(report.HEAD, report.stream_rows(found)), well

    return Case(load.name, run)


async def _streamed(kind: Kind, dialect: Dialect, load: Load, **environment: str) -> Streamed:
    async with endpoint() as upstream, server(kind, upstream, **environment) as running:
        found = await measure(running, dialect, load)
    print(
        f"    {kind.name}: {found.cpu:.1f} us/token, delay {found.delay_p50:.0f} / {found.delay_p99:.0f} ms", flush=True
    )
    return found


async def with_everything_on(quick: bool) -> tuple[str, bool]:
    """Accounts, limits, metrics and logs, against none of them."""
    load = Load(10, 50, 50) if quick else Load(100, 250, 50)
    off = await _streamed(SQLITE, OURS, load)
    environment = sends.LOGS | sends.ACCOUNTS | {"TERTULIA_SECRET_KEY": token_urlsafe(48)}
    async with endpoint() as upstream, server(SQLITE, upstream, **environment) as running:
        token = (await sends.registered(running.process, 1))[0]
        on = await measure(running, replace(OURS, token=token), load)
    rows = report.stream_rows([("all off", off), ("all on", on)])
    return report.table(("Tertulia, SQLite", *report.HEAD[1:]), rows), on.wrong == off.wrong == 0


async def idle_subscriptions(quick: bool) -> tuple[str, bool]:
    async with endpoint() as upstream, server(SQLITE, upstream) as running:
        found = await idle.measure(running.process, sockets=500 if quick else idle.SOCKETS)
    row = (f"{found.kibibytes_each:.1f}", f"{found.set_up_microseconds:,.0f}", f"{found.idle_percent:.1f}")
    return report.table(("KiB each, socket included", "set-up, us of CPU", "idle, % of a core"), [row]), True


async def sending(quick: bool) -> tuple[str, bool]:
    """PostgreSQL without a worker, so that only the sends are counted, then with one; SQLite."""
    head = ("server", "most/s", "CPU ms/send", "at 250/s: p50 / p99 ms", "200 at once: p99 ms", "failed")
    rows = []
    for kind, worker in ((POSTGRESQL, False), (POSTGRESQL, True), (SQLITE, False)):
        found = await sends.measure(kind, 2 if quick else SENDS_SECONDS, worker=worker)
        rows.append(
            (
                f"{kind.name}, {'with its replies made' if worker else 'sends alone'}",
                f"{found.most.per_second:.0f}",
                f"{found.most.cpu_ms:.2f}",
                f"{found.paced.p50_ms:.0f} / {found.paced.p99_ms:.0f}",
                f"{found.at_once.p99_ms:.0f}",
                str(found.most.failed + found.paced.failed + found.at_once.failed),
            )
        )
        print(f"    {rows[-1]}", flush=True)
    return report.table(head, rows), True


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
    streams(Load(1_000, 250, 20), BOTH),
    streams(Load(200, 250, 50), (*BOTH, *PEERS)),
    Case("Sends", sending),
    Case("Idle subscriptions", idle_subscriptions),
    Case("Long conversations and long lists", long_conversations),
    Case("Accounts, limits, metrics and logs", with_everything_on),
    streams(Load(100, 250, 50, readers=4), (*BOTH, PEERS[0])),
    streams(Load(50, 250, 50), (*BOTH, *PEERS)),
    streams(Load(50, 750, 50), (*BOTH, *PEERS)),
)


async def run(cases: Sequence[Case], quick: bool) -> bool:
    sections, well, began = [], True, time.monotonic()
    for case in cases:
        print(f"{time.monotonic() - began:6.0f} s  {case.title} ...", flush=True)
        text, right = await case.run(quick)
        sections.append((case.title, text if right else f"{text}\n\nFAILED"))
        well &= right
        if len(cases) == len(CASES) and not quick:
            report.write(sections)
    print()
    for title, text in sections:
        print(f"{title}\n\n{text}\n")
    return well


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help="the cases with these words in their titles")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works; writes no results")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only.lower() in case.title.lower()]
    if not cases:
        parser.error(f"no such case; there are: {', '.join(case.title for case in CASES)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, LOAD_CORES)
    sys.exit(0 if uvloop.run(run(cases, options.quick)) else 1)


if __name__ == "__main__":
    main()
