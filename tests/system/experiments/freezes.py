"""Processes stopped by SIGSTOP beyond their lease while they generate, and let go on when others have taken over.

The upstream goes on sending to a frozen process, so that the thawed one wakes up with text in its hands that it must
not write. Its readers stay connected to it, so that whatever it would publish is seen.
"""

import asyncio
import time
from dataclasses import dataclass, field

from tests.system.cluster import Cluster, cluster
from tests.system.load import Talk, faults_in, scripts, talk
from tests.system.processes import ServerProcess
from tests.system.report import Outcome, Progress, processes
from tests.system.tokens import numbers

LIVE = 12
TAKEN_SECONDS = 60.0
"""More than twice what a takeover needs: others may be slow."""
THAWED_SECONDS = 2.0

LOCKING = """SELECT count(*) FROM pg_stat_activity
             WHERE state = 'idle in transaction' AND state_change < clock_timestamp() - interval '10 s'"""


@dataclass
class Freezes:
    done: int = 0
    held: int = 0
    """Live replies of frozen processes, and those of them that others took over in time."""
    taken: int = 0
    locking: int = 0
    """Transactions that the frozen left open, where not everything was taken over."""
    late_rows: int = 0
    in_hand: int = 0
    """Tokens that the upstream sent to frozen processes, and that nobody may ever see."""
    faults: list[str] = field(default_factory=list)
    replies: int = 0


async def freeze_the_generator(scale: float, seed: int, progress: Progress) -> Outcome:
    planned, freezes = max(1, round(30 * scale)), Freezes()
    async with cluster(processes(scale)) as servers:
        while freezes.done < planned:
            await _round(servers, seed, freezes)
            progress(f"{freezes.done} of {planned} frozen and thawed, {freezes.taken} replies taken over")
        finished = await servers.rows(
            "SELECT reply_id FROM reply_events WHERE kind = 'finished' GROUP BY reply_id HAVING count(*) <> 1"
        )
        ended = await servers.number("SELECT count(*) FROM reply_events WHERE kind = 'finished'")
    outcome = Outcome(f"{freezes.done} freezes beyond the lease, {freezes.taken} of {freezes.held} replies taken over")
    outcome.figures += [
        f"{freezes.late_rows} rows written after a takeover",
        f"{freezes.in_hand} tokens sent to the frozen and dropped",
        f"{ended} terminal events for {freezes.replies} replies",
    ]
    outcome.expect(freezes.held >= freezes.done, "not every frozen process made a reply")
    outcome.expect(freezes.taken == freezes.held, f"{freezes.held - freezes.taken} replies were not taken over")
    outcome.expect(not freezes.locking, f"{freezes.locking} transactions of the frozen were left open meanwhile")
    outcome.expect(freezes.in_hand > 0, "no frozen process had anything in its hands")
    outcome.expect(freezes.late_rows == 0, f"{freezes.late_rows} rows written by the thawed")
    outcome.expect(not finished and ended == freezes.replies, "not every reply has exactly one terminal event")
    outcome.found(freezes.faults, freezes.replies, "replies")
    return outcome


async def _round(servers: Cluster, seed: int, freezes: Freezes) -> None:
    """New replies; all processes but one frozen until what they make is taken over, then thawed until the end."""
    talks: list[Talk] = []
    script = scripts(seed, (60, 120), rate=12)
    keys = [f"freeze-{freezes.done}-{n}" for n in range(LIVE)]
    talking = [asyncio.create_task(talk(servers, script(key), n, 3, talks)) for n, key in enumerate(keys)]
    victims = await _victims(servers)
    for victim in victims:
        victim.freeze()
    await asyncio.sleep(0.2)  # what was under way to the database has arrived
    held = {reply: attempt for victim in victims for reply, attempt in await servers.streaming(victim.worker)}
    frozen = [victim.worker for victim in victims if await servers.streaming(victim.worker)]
    taken, before = await taken_over(servers, held, [str(victim.worker) for victim in victims])
    freezes.locking += 0 if len(taken) == len(held) else await servers.number(LOCKING)
    for victim in victims:
        victim.thaw()
    await asyncio.sleep(THAWED_SECONDS)
    freezes.late_rows += await late_rows(servers, held, before)
    freezes.in_hand += await _in_hand(servers, talks, taken)
    async with asyncio.timeout(120):
        await asyncio.gather(*talking)
    freezes.late_rows += await late_rows(servers, held, before)
    freezes.done += len(frozen)
    freezes.held += len(held)
    freezes.taken += len(taken)
    freezes.replies += len(talks)
    freezes.faults += await faults_in(servers, talks)


async def _victims(servers: Cluster) -> list[ServerProcess]:
    """All processes but one, of those that make replies."""
    while True:
        query = """SELECT owner FROM replies JOIN reply_events ON reply_id = id WHERE status = 'STREAMING'
                   AND kind = 'text' GROUP BY owner ORDER BY count(*) DESC"""
        owners = servers.owners()
        found = [owners[row["owner"]] for row in await servers.rows(query) if row["owner"] in owners]
        if len(found) >= len(owners) - 1:
            return found[: len(owners) - 1]
        await asyncio.sleep(0.1)


async def taken_over(servers: Cluster, held: dict[str, int], frozen: list[str]) -> tuple[list[str], dict[str, int]]:
    """Which replies are no longer the frozen ones', and how many rows their old attempts had in the log by then."""
    query = "SELECT id FROM replies WHERE id = ANY($1) AND (owner IS NULL OR owner <> ALL($2))"
    until = time.monotonic() + TAKEN_SECONDS
    taken: list[str] = []
    while len(taken) < len(held) and time.monotonic() < until:
        await asyncio.sleep(0.2)
        taken = [row["id"] for row in await servers.rows(query, list(held), frozen)]
    await asyncio.sleep(1)  # the new owners have begun to write
    return taken, {reply: await _old(servers, reply, held[reply]) for reply in taken}


async def _old(servers: Cluster, reply: str, attempt: int) -> int:
    """How many rows the attempts so far have in the log."""
    return await servers.number(
        "SELECT count(*) FROM reply_events WHERE reply_id = $1 AND attempt <= $2", reply, attempt
    )


async def late_rows(servers: Cluster, held: dict[str, int], before: dict[str, int]) -> int:
    """Rows of old attempts that were not there at the takeover."""
    now = {reply: await _old(servers, reply, held[reply]) for reply in before}
    return sum(now[reply] - before[reply] for reply in before)


async def _in_hand(servers: Cluster, talks: list[Talk], taken: list[str]) -> int:
    """Tokens of the frozen calls that were sent and are not in the log."""
    keys = {made.script.key for made in talks if made.reply_id in taken}
    first: dict[str, int] = {}
    for call in await servers.calls():
        if call["key"] in keys:
            first.setdefault(call["key"], call["sent"])
    query = "SELECT text FROM reply_events WHERE reply_id = ANY($1) AND attempt = 1 AND kind = 'text'"
    return sum(first.values()) - sum(len(numbers(row["text"])) for row in await servers.rows(query, taken))
