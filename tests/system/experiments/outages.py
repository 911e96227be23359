"""PostgreSQL killed and started again under live replies: by SIGKILL of the postmaster and by immediate shutdown."""

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.system.cluster import TERMINAL, Cluster, cluster
from tests.system.load import Load, faults_in, lost_messages, scripts
from tests.system.polling import until
from tests.system.report import LONG, Outcome, Progress, processes

LIVE, FEW = 50, 15
DOWN = (0.0, 12.0)
"""Seconds that it stays away: also longer than a lease."""
PAUSES = (3.0, 8.0)
TERMINAL_SECONDS = 60.0
WAYS = (signal.SIGKILL, signal.SIGQUIT)


@dataclass
class Outages:
    done: Counter[str] = field(default_factory=Counter)
    struck: int = 0
    """Live replies at the moments of the kills."""
    live: list[int] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


async def kill_the_database(scale: float, seed: int, progress: Progress) -> Outcome:
    planned, outages, chance = max(1, round(20 * scale)), Outages(), random.Random(seed)
    live = LIVE if scale >= LONG else FEW
    longest = DOWN[1] if scale >= LONG else 2.0
    async with cluster(processes(scale)) as servers:
        load = Load(servers, scripts(seed, (100, 200) if scale >= LONG else (40, 60), rate=12), readers=1)
        looking: list[asyncio.Task[None]] = []
        async with load.running(live):
            while outages.done.total() < planned:
                struck = await _kill_it(servers, round(0.8 * live), chance, longest, outages)
                looking.append(asyncio.create_task(_until_terminal(servers, *struck, outages)))
                outages.lost += await lost_messages(servers, list(load.talks))
                progress(f"{outages.done.total()} of {planned} outages, {len(load.talks)} replies")
                await asyncio.sleep(chance.uniform(*PAUSES))
        await asyncio.gather(*looking)
        faults = await faults_in(servers, load.talks)
        again = await servers.number("SELECT count(*) FROM replies WHERE attempt <> 1 OR rescues <> 0")
    outcome = Outcome(
        f"{outages.done.total()} outages ({', '.join(f'{n} {how}' for how, n in outages.done.items())}) of up to "
        f"{max(outages.down, default=0):.1f} s, {min(outages.live, default=0)} to {max(outages.live, default=0)} live"
    )
    outcome.figures += [f"{len(outages.lost)} of {len(load.talks)} messages lost", f"{again} takeovers"]
    outcome.within("slowest end after a kill", max(outages.ended, default=float("nan")), TERMINAL_SECONDS)
    outcome.expect(not outages.lost, f"{len(outages.lost)} acknowledged messages lost")
    outcome.expect(min(outages.live, default=0) >= 0.5 * live, "fewer replies were live than half of those planned")
    outcome.expect(not outages.stuck, f"{len(outages.stuck)} replies not terminal after {TERMINAL_SECONDS:g} s")
    outcome.expect(again == 0, f"{again} replies were taken over from living processes")
    outcome.found(faults, len(load.talks), "replies")
    return outcome


async def _live(servers: Cluster, least: int) -> list[str]:
    """The replies that stream, once there are so many: some have just ended, and some are yet to be claimed."""

    async def asked() -> list[str]:
        found = [row["id"] for row in await servers.rows("SELECT id FROM replies WHERE status = 'STREAMING'")]
        return found if len(found) >= least else []

    return await until(asked)


async def _kill_it(
    servers: Cluster, least: int, chance: random.Random, longest: float, outages: Outages
) -> tuple[set[str], float]:
    """The replies that were live, at least so many, and when it was killed."""
    how, seconds = chance.choice(WAYS), chance.uniform(DOWN[0], longest)
    live = await _live(servers, least)
    killed = time.monotonic()
    await servers.postgres.kill(how)
    await asyncio.sleep(seconds)
    await servers.postgres.start()
    outages.down.append(time.monotonic() - killed)
    outages.done[how.name] += 1
    outages.live.append(len(live))
    return set(live), killed


async def _until_terminal(servers: Cluster, live: set[str], killed: float, outages: Outages) -> None:
    query = "SELECT id FROM replies WHERE id = ANY($1) AND status = ANY($2)"
    while live and time.monotonic() - killed < TERMINAL_SECONDS:
        ended = {row["id"] for row in await servers.rows(query, list(live), list(TERMINAL))}
        outages.ended += [time.monotonic() - killed] * len(ended)
        live -= ended
        await asyncio.sleep(0.5)
    outages.stuck += live
