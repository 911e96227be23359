"""`kill -9` of a process that is generating, again and again, while clients follow on all processes.

The next kill comes while the replies of the one before wait for their lease to run out, so a reply may lose its
process several times. Who is to be killed stands still first, so that what it makes cannot end in the moment before.
What a kill hit is read after it: the dead own their replies until the lease is over.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.system.cluster import TERMINAL, Cluster, cluster
from tests.system.load import Load, Talk, error_of, faults_in, lost_messages, scripts
from tests.system.processes import ServerProcess
from tests.system.report import LONG, Outcome, Progress, percentile, processes

SETTLED_SECONDS = 15.0
GIVEN_UP_SECONDS = 60.0
PAUSES = (2.5, 6.0)
MAX_RESCUES = 2
LIVE, FEW = 18, 8
TOKENS, FEW_TOKENS, RATE = (80, 240), (40, 80), 15


@dataclass
class Kills:
    """What was killed, and what it hit."""

    done: int = 0
    effective: int = 0
    """Kills that hit a reply with text, in status STREAMING."""
    hits: Counter[str] = field(default_factory=Counter)
    """How often each reply lost its process."""
    settled: list[float] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    """Those that were not settled in time, and how many never were."""
    never: int = 0
    lost: int = 0
    dead: set[str | None] = field(default_factory=set)
    """The ids of the processes that were killed."""


async def kill_the_generator(scale: float, seed: int, progress: Progress) -> Outcome:
    outcome, kills, chance = Outcome(), Kills(), random.Random(seed)
    planned = max(2, round(200 * scale))
    async with cluster(processes(scale)) as servers:
        load = Load(servers, scripts(seed, TOKENS if scale >= LONG else FEW_TOKENS, RATE))
        looking: list[asyncio.Task[None]] = []
        async with load.running(LIVE if scale >= LONG else FEW):
            await asyncio.sleep(3)
            while kills.done < planned:
                await _kill_one(servers, chance, kills, looking)
                kills.lost += len(await lost_messages(servers, list(load.talks)))
                progress(f"{kills.done} of {planned} kills, {sum(kills.hits.values())} replies hit")
                await asyncio.sleep(chance.uniform(*PAUSES))
            progress("waiting for the last replies")
        await asyncio.gather(*looking)
        faults = await faults_in(servers, load.talks, lambda talk, stored: _ends_well(talk, stored, kills))
    _judge(outcome, load, kills, faults)
    return outcome


async def _kill_one(servers: Cluster, chance: random.Random, kills: Kills, looking: list[asyncio.Task[None]]) -> None:
    victim = await _generating(servers, chance)
    worker = victim.worker
    await victim.kill()
    killed = time.monotonic()
    kills.dead.add(worker)
    kills.done += 1
    await asyncio.sleep(0.2)  # what was under way to the database has arrived
    looking.append(asyncio.create_task(servers.start(victim)))
    hit = dict(await servers.streaming(worker))
    kills.hits.update(hit)
    shown = "SELECT count(*) FROM reply_events WHERE reply_id = ANY($1) AND kind = 'text'"
    kills.effective += await servers.number(shown, list(hit)) > 0
    looking.append(asyncio.create_task(_settle(servers, hit, killed, kills)))


async def _generating(servers: Cluster, chance: random.Random) -> ServerProcess:
    """A process by chance, stopped while its replies show text already; never the last one that runs."""
    while True:
        generating = await _showing_text(servers)
        running = {worker: server for worker, server in servers.owners().items() if server.ready}
        found = sorted(worker for worker in running if worker in generating)
        if found and len(running) > 1:
            victim = running[chance.choice(found)]
            victim.freeze()
            if victim.worker in await _showing_text(servers):
                return victim
            victim.thaw()
        await asyncio.sleep(0.1)


async def _showing_text(servers: Cluster) -> set[str]:
    """The ids of the processes whose replies do."""
    query = """SELECT DISTINCT owner FROM replies JOIN reply_events ON reply_id = id
               WHERE status = 'STREAMING' AND kind = 'text'"""
    return {row["owner"] for row in await servers.rows(query)}


async def _settle(servers: Cluster, hit: dict[str, int], killed: float, kills: Kills) -> None:
    """Settled: terminal, or STREAMING under a live owner, at some moment; those that were not in time are described.

    What a later kill took from its new owner was settled before that, and is watched by that kill.
    """
    open_, late = set(hit), False
    query = "SELECT id, status, owner, attempt, rescues FROM replies WHERE id = ANY($1)"
    while open_ and time.monotonic() - killed < GIVEN_UP_SECONDS:
        alive = servers.owners()
        for row in await servers.rows(query, list(open_)):
            struck_again = row["attempt"] > hit[row["id"]] and row["owner"] in kills.dead
            if row["status"] in TERMINAL or (row["status"] == "STREAMING" and row["owner"] in alive) or struck_again:
                open_.discard(row["id"])
                kills.settled.append(time.monotonic() - killed)
            elif not late and time.monotonic() - killed >= SETTLED_SECONDS:
                same = "the dead one's" if row["attempt"] == hit[row["id"]] else "another"
                kills.unsettled.append(f"{row['status']} in {same} attempt after {row['rescues']} rescues")
        late = time.monotonic() - killed >= SETTLED_SECONDS
        await asyncio.sleep(0.2)
    kills.never += len(open_)


def _ends_well(talk: Talk, stored: dict[str, Any], kills: Kills) -> bool:
    """Rescued twice it may be given up, with its text; before that it has to go on."""
    interrupted = stored["status"] == "FAILED" and error_of(stored) == "INTERRUPTED"
    return bool(stored["status"] == "COMPLETE") or (interrupted and kills.hits[talk.reply_id] > MAX_RESCUES)


def _judge(outcome: Outcome, load: Load, kills: Kills, faults: list[str]) -> None:
    hits = sum(kills.hits.values())
    outcome.injected = f"{kills.done} kills, {hits} replies hit"
    cuts = sum(sum(watcher.seen.cuts.values()) for talk in load.talks for watcher in talk.watchers)
    outcome.figures += [
        f"{kills.effective} kills hit a STREAMING reply with text",
        f"{kills.lost} user messages lost",
        f"{len(kills.unsettled)} of {hits} unsettled after {SETTLED_SECONDS:g} s",
        f"settled p50 {percentile(kills.settled, 0.5):.1f} s, at most {max(kills.settled, default=0):.1f} s",
        f"{cuts} reconnects",
    ]
    outcome.expect(kills.effective >= 0.9 * kills.done, f"only {kills.effective} of {kills.done} kills hit a reply")
    outcome.expect(kills.lost == 0, f"{kills.lost} user messages lost")
    outcome.expect(kills.never == 0, f"{kills.never} unsettled after {GIVEN_UP_SECONDS:g} s")
    if kills.unsettled:
        outcome.late.append(f"{len(kills.unsettled)} unsettled: {Counter(kills.unsettled)}")
    outcome.found(faults, len(load.talks), "replies with three readers each")
