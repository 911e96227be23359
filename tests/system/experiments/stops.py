"""Stop from a process that does not make the reply, at random moments; another client follows on yet another."""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.system.cluster import Cluster, cluster
from tests.system.load import STOP, Talk, faults_in, send
from tests.system.polling import until
from tests.system.report import Outcome, Progress, percentile, processes
from tests.system.tokens import Script
from tests.system.watching import Watcher

AT_ONCE = 4
LATEST = 1.5
FIRST_TOKEN = 0.8
STOPPED_SECONDS = 0.25
CLOSED_SECONDS = 1.0


@dataclass
class Stops:
    talks: list[Talk] = field(default_factory=list)
    asked: dict[str, float] = field(default_factory=dict)
    """When each reply was asked to stop, by the key of its message."""
    answered: list[float] = field(default_factory=list)
    followed: list[float] = field(default_factory=list)
    by_owner: int = 0
    wrong: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    """What was answered before it had stopped: the mutation waits for that, but not for ever."""


async def stop_from_elsewhere(scale: float, seed: int, progress: Progress) -> Outcome:
    planned, stops, chance = max(12, round(300 * scale)), Stops(), random.Random(seed)
    async with cluster(processes(scale)) as servers:
        pending = iter([(n, chance.uniform(0, LATEST), chance.uniform(0, FIRST_TOKEN)) for n in range(planned)])

        async def stopper() -> None:
            for n, moment, first in pending:
                await _stop_one(servers, Script(f"stop-{n}", 10_000, 30, first), n, moment, stops)
                progress(f"{len(stops.talks)} of {planned} stopped")

        await asyncio.gather(*(stopper() for _ in range(AT_ONCE)))
        with suppress(TimeoutError):  # what is never closed is found by its figure
            await until(partial(_all_closed, servers))
        faults = await faults_in(servers, stops.talks, lambda _, stored: bool(stored["status"] == "STOPPED"))
        calls = await servers.calls()
    return _judged(stops, planned, calls, faults)


async def _all_closed(servers: Cluster) -> bool:
    return all(call["ended"] is not None for call in await servers.calls())


async def _stop_one(servers: Cluster, script: Script, place: int, moment: float, stops: Stops) -> None:
    made = await send(servers, script, place)
    watcher = Watcher(made.reply_id)
    made.watchers.append(watcher)
    owner, (there, elsewhere) = await _others(servers, made.reply_id, place)
    following = asyncio.create_task(watcher.follow(servers.address, there))
    await asyncio.sleep(moment)
    asked = stops.asked[script.key] = time.monotonic()
    stopped = (await servers.ask(elsewhere, STOP, id=made.reply_id))["stopReply"]
    stops.answered.append(time.monotonic() - asked)
    if stopped["errors"]:
        stops.wrong.append(f"{script.key}: the mutation answered {stopped}")
    elif stopped["reply"]["status"] != "STOPPED":
        stops.late.append(f"{script.key}: the mutation answered {stopped}")
    async with asyncio.timeout(30):
        await following
    stops.followed.append(watcher.seen.last_event - asked)
    stops.by_owner += owner in (there, elsewhere)
    stops.talks.append(made)


async def _others(servers: Cluster, reply_id: str, place: int) -> tuple[int | None, tuple[int, int]]:
    """Who makes the reply, and where to follow and to stop it. While nobody has it, it is mostly who was sent it."""
    row = (await servers.rows("SELECT owner FROM replies WHERE id = $1", reply_id))[0]
    owner = servers.owners().get(row["owner"])
    count = len(servers.servers)
    index = place % count if owner is None else servers.servers.index(owner)
    return (None if owner is None else index), ((index + 1) % count, (index + count - 1) % count)


def _judged(stops: Stops, planned: int, calls: list[dict[str, Any]], faults: list[str]) -> Outcome:
    outcome = Outcome()
    closes = [call["ended"] - stops.asked[call["key"]] for call in calls if call["ended"] is not None]
    early = sum(call["first_token"] is None or call["first_token"] > stops.asked[call["key"]] for call in calls)
    unasked = planned - len({call["key"] for call in calls})
    outcome.injected = f"{len(stops.talks)} stops, {early} before the first token, {unasked} before the call"
    outcome.within("answer p99", percentile(stops.answered, 0.99), STOPPED_SECONDS)
    outcome.within("STOPPED elsewhere p99", percentile(stops.followed, 0.99), STOPPED_SECONDS)
    outcome.figures.append(f"p50 {1000 * percentile(stops.followed, 0.5):.0f} ms")
    outcome.within("slowest close upstream", max(closes, default=0.0), CLOSED_SECONDS)
    outcome.expect(len(stops.talks) == planned, f"{len(stops.talks)} stops instead of {planned}")
    outcome.expect(len(closes) == len(calls), f"{len(calls) - len(closes)} calls of the model were never closed")
    outcome.expect(not any(call["whole"] for call in calls), "a call ran to its end")
    outcome.expect(not stops.by_owner, f"{stops.by_owner} stops went to the owner")
    outcome.wrong += stops.wrong[:3]
    outcome.late += stops.late[:3]
    outcome.found(faults, len(stops.talks), "stopped replies")
    return outcome
