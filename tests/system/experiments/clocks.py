"""A host whose clock is two hours off, before and behind: nobody takes anything over because of it."""

import asyncio
from datetime import UTC, datetime
from functools import partial

from tests.system.claims import claimers, remember_claims
from tests.system.cluster import Cluster, cluster
from tests.system.load import Talk, faults_in, patiently, scripts, talk
from tests.system.polling import until
from tests.system.report import LONG, Outcome, Progress, processes

SHIFTS = (2 * 3600, -2 * 3600)
LIVE = 15
BEGUN = "SELECT 1 FROM replies WHERE started_at IS NOT NULL HAVING count(*) >= $1"
CREATED = "query ($id: ID!) { message(id: $id) { createdAt } }"


async def shift_a_clock(scale: float, seed: int, progress: Progress) -> Outcome:
    """Replies on all processes, for longer than three leases; the short form for one and a half."""
    seconds = 33 if scale >= LONG else 15
    talks: list[Talk] = []
    outcome, shifts, working = Outcome(), list[float](), processes(scale)
    share = str((LIVE - 1) // (working - 1))  # all but one process together cannot make all replies
    async with cluster(working - 1, TERTULIA_MAX_LIVE_REPLIES=share) as servers:
        await remember_claims(servers)
        for shift in SHIFTS if scale >= LONG else SHIFTS[:1]:
            wrong = servers.another(program="tests.system.shifted", KIT_CLOCK_SHIFT=str(shift))
            await servers.start(wrong)
            progress(f"a clock is off by {shift} s")
            script = scripts(seed, (seconds * 8, seconds * 8), rate=8)
            keys = [f"clock-{shift}-{n}" for n in range(LIVE)]
            talking = [asyncio.create_task(talk(servers, script(key), n, 3, talks)) for n, key in enumerate(keys)]
            await until(partial(_begun, servers, talks, LIVE * (len(shifts) + 1)))
            shifts.append(await _seen_shift(servers, talks[-LIVE:]))
            await asyncio.gather(*talking)
            await wrong.kill()
            servers.servers.remove(wrong)
        again = await servers.number("SELECT count(*) FROM replies WHERE attempt <> 1 OR rescues <> 0")
        owners = await claimers(servers)
        faults = await faults_in(servers, talks)
    outcome.injected = "one clock off by " + " and ".join(f"{shift / 3600:+.2f} h" for shift in shifts)
    outcome.figures += [f"{again} takeovers", f"replies of {seconds} s made by {owners} processes"]
    outcome.expect(all(abs(shift) > 7_000 for shift in shifts), "the clock was not off")
    outcome.expect(owners == working - 1 + len(shifts), "not every process made replies")
    outcome.expect(again == 0, f"{again} false takeovers")
    outcome.found(faults, len(talks), "replies")
    return outcome


async def _begun(servers: Cluster, talks: list[Talk], count: int) -> bool:
    """Every message is acknowledged, and every reply has begun."""
    return len(talks) == count and bool(await servers.rows(BEGUN, count))


async def _seen_shift(servers: Cluster, talks: list[Talk]) -> float:
    """How far off the times are that the process writes: what it says of messages that it was just sent."""
    apart = [0.0]
    for made in talks:
        created = (await patiently(servers, CREATED, id=made.message_id))["message"]["createdAt"]
        apart.append((datetime.fromisoformat(created) - datetime.now(UTC)).total_seconds())
    return max(apart, key=abs)
