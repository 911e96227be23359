"""Bells: the connections that listen for them cut again and again, and how long a token takes across processes."""

import asyncio
import random
from collections.abc import Sequence

from tests.system.claims import claimer_of, remember_claims
from tests.system.cluster import Cluster, cluster
from tests.system.load import Load, Talk, faults_in, scripts, send
from tests.system.polling import until
from tests.system.report import LONG, Outcome, Progress, milliseconds, percentile, processes
from tests.system.tokens import Script
from tests.system.watching import Watcher

CUT_EVERY = 2.0
CUT_DELAY = 1.2
P50, P99 = 0.060, 0.150
CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE (application_name = 'tertulia-bell' OR query ILIKE 'listen%') AND pid <> pg_backend_pid()"""


async def cut_the_listeners(scale: float, seed: int, progress: Progress) -> Outcome:
    seconds, cuts = max(6.0, 60 * scale), list[int]()
    async with cluster(processes(scale)) as servers:
        load = Load(servers, scripts(seed, (40, 120), rate=10), readers=3)
        async with load.running(10):
            for n in range(round(seconds / CUT_EVERY)):
                await asyncio.sleep(CUT_EVERY)
                cuts.append(len(await until(lambda: servers.rows(CUT))))
                progress(f"cut {n + 1} times, {sum(cuts)} connections, {len(load.talks)} replies")
        faults = await faults_in(servers, load.talks)
    delays = [delay for made in load.talks for watcher in made.watchers for delay in watcher.seen.delays]
    outcome = Outcome(f"{sum(cuts)} LISTEN connections cut in {len(cuts)} rounds")
    outcome.figures.append(f"{len(delays):,} tokens, p50 {milliseconds(percentile(delays, 0.5))}")
    outcome.within("slowest", max(delays, default=float("nan")), CUT_DELAY)
    outcome.expect(bool(cuts) and min(cuts) > 0, "in some rounds there was no LISTEN connection to cut")
    outcome.found(faults, len(load.talks), "replies with a reader on every process")
    return outcome


async def delay_across_processes(scale: float, seed: int, progress: Progress) -> Outcome:
    live, tokens = max(10, round(100 * scale)), 500 if scale >= LONG else 100
    async with cluster(processes(scale)) as servers:
        await remember_claims(servers)
        progress(f"{live} replies")
        talks = await _followed_elsewhere(servers, live, tokens, random.Random(seed))
        faults = await faults_in(servers, talks)
        owned = await servers.number("SELECT count(*) FROM replies WHERE attempt = 1")
    delays = [delay for made in talks for watcher in made.watchers for delay in watcher.seen.delays]
    outcome = Outcome(f"nothing; {live} live replies, {len(delays):,} tokens")
    p50, p99 = percentile(delays, 0.5), percentile(delays, 0.99)
    verdict = "as promised" if p50 <= P50 and p99 <= P99 else "more than the 60 and 150 ms promised"
    outcome.figures.append(f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)}, {verdict} (reported, not asserted)")
    outcome.expect(owned == live, "some replies took several attempts")
    outcome.found(faults, len(talks), "replies")
    return outcome


async def _followed_elsewhere(servers: Cluster, live: int, tokens: int, chance: random.Random) -> Sequence[Talk]:
    """As many replies at once, each read on a process that does not make it."""
    made = [Script(f"delay-{n}", tokens, 50, first=chance.uniform(2, 3)) for n in range(live)]
    talks = await asyncio.gather(*(send(servers, script, n) for n, script in enumerate(made)))
    await asyncio.gather(*(_follow(servers, one) for one in talks))
    return talks


async def _follow(servers: Cluster, made: Talk) -> None:
    owner = servers.servers.index(servers.owners()[await claimer_of(servers, made.reply_id)])
    watcher = Watcher(made.reply_id)
    made.watchers.append(watcher)
    await watcher.follow(servers.address, owner + 1)
