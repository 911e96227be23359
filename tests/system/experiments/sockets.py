"""All sockets dropped at once, as when a proxy in front of the servers is started anew."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from tests.system.cluster import Cluster, cluster
from tests.system.load import Talk, faults_in, send
from tests.system.polling import until
from tests.system.report import LONG, Outcome, Progress, processes
from tests.system.tokens import Script
from tests.system.watching import Watcher

READERS = 10
"""Of each reply."""
RESUMED_SECONDS = 10.0
RATE = 2
ROUNDS = 2


async def drop_all_sockets(scale: float, seed: int, progress: Progress) -> Outcome:
    sockets = max(40, round(500 * scale))
    outcome, took, dropped = Outcome(), list[float](), list[int]()
    async with cluster(processes(scale), proxied=True) as servers:
        length = 120 if scale >= LONG else 60
        scripts = [Script(f"dropped-{n}", length, RATE) for n in range(sockets // READERS)]
        talks = [await send(servers, script, n) for n, script in enumerate(scripts)]
        following = _readers(servers, talks)
        watchers = [watcher for made in talks for watcher in made.watchers]
        await _until(lambda: all(watcher.cursor for watcher in watchers), 2 * RESUMED_SECONDS)
        for _ in range(ROUNDS):
            cut = time.monotonic()
            dropped.append(sum(proxy.cut_all() for proxy in servers.proxies))
            await _until(lambda: len(_resumed(watchers, cut)) == len(watchers), 2 * RESUMED_SECONDS)  # noqa: B023
            took += _resumed(watchers, cut)
            progress(f"{dropped[-1]} connections cut, {len(took)} resumed")
        async with asyncio.timeout(180):
            await asyncio.gather(*following)
        faults = await faults_in(servers, talks)
    outcome.injected = f"{len(watchers)} sockets dropped, {ROUNDS} times ({' + '.join(map(str, dropped))} connections)"
    outcome.figures.append(f"{len(took)} of {ROUNDS * len(watchers)} resumed")
    outcome.within("slowest", max(took, default=float("nan")), RESUMED_SECONDS)
    outcome.expect(min(dropped) >= len(watchers), "fewer connections were cut than there are readers")
    outcome.expect(len(took) == ROUNDS * len(watchers), f"{ROUNDS * len(watchers) - len(took)} readers did not resume")
    outcome.found(faults, len(talks), f"replies with {READERS} readers each")
    return outcome


def _readers(servers: Cluster, talks: list[Talk]) -> list[asyncio.Task[None]]:
    following = []
    for n, made in enumerate(talks):
        made.watchers = [Watcher(made.reply_id) for _ in range(READERS)]
        follows = [watcher.follow(servers.address, n + place) for place, watcher in enumerate(made.watchers)]
        following += [asyncio.create_task(follow) for follow in follows]
    return following


def _resumed(watchers: list[Watcher], cut: float) -> list[float]:
    """Seconds from a cut to the first event after it, for those readers that got one."""
    return [min(after) - cut for watcher in watchers if (after := [at for at in watcher.seen.resumed if at > cut])]


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    """What does not hold in time is told by the figures."""

    async def asked() -> bool:
        return holds()

    with suppress(TimeoutError):
        await until(asked, seconds)
