"""`kill -9` of a process while its replies call tools: in every phase of a step, and in the middle of approvals.

Each kill waits for a reply in the phase that is next in turn; what it hit is read when the dead process can do nothing
any more. Non-idempotent tools count what they did, and the model's endpoint refuses every history that is not whole.
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.cluster import Cluster, cluster
from tests.system.effects import Effects, Marks
from tests.system.load import Talk, completes, error_of, faults_in, stored_replies
from tests.system.processes import ServerProcess
from tests.system.report import LONG, Outcome, Progress
from tests.system.tool_faults import NODES
from tests.system.tool_load import ToolLoad, ToolTalk
from tests.system.tool_phases import Phase, phase_of
from tests.system.tool_plugin import NAMES
from tests.system.tool_verdicts import call_figures, judge_calls

PROCESSES = 2
LIVE, FEW = 8, 4
KILLS, FEWEST = 100, 3
PATIENCE_SECONDS = 8.0
"""So long a kill waits for its phase; then it takes what there is."""
LOOK_SECONDS, OWNERS_SECONDS = 0.005, 0.1
MAX_RESCUES = 2
FIRST = (Phase.EFFECT, Phase.ARGUMENTS, Phase.TRANSACTION)
"""The phases of the short form."""
AIMS = tuple(phase for phase in Phase if phase not in (Phase.BEGINNING, Phase.RAN))
OWNERLESS = (Phase.WAITING, Phase.DECIDING)
"""Nobody makes these replies; what is killed is who handles the decision, or might."""


@dataclass
class Struck:
    """What was killed, and where the replies stood that it hit."""

    kills: int = 0
    aimed: Counter[Phase] = field(default_factory=Counter)
    """Kills for which a reply stood where it should."""
    phases: Counter[Phase] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    """How often each reply lost its process."""
    notes: list[tuple[str, str]] = field(default_factory=list)


async def kill_in_tools(scale: float, seed: int, progress: Progress) -> Outcome:
    struck, chance = Struck(), random.Random(seed)
    planned = max(FEWEST, round(KILLS * scale))
    with tempfile.TemporaryDirectory(prefix="tertulia-effects-") as folder:
        marks = Marks(Path(folder) / "effects")
        async with tool_servers(marks) as servers:
            load = ToolLoad(servers, seed)
            async with load.running(LIVE if scale >= LONG else FEW):
                starting: list[asyncio.Task[None]] = []
                for phase in _turns(planned, chance):
                    await _strike(servers, load, marks, phase, struck, starting)
                    struck.notes += await notes_of(servers)
                    progress(f"{struck.kills} of {planned} kills, {sum(struck.hits.values())} replies hit")
                progress("waiting for the last replies")
                await asyncio.gather(*starting)
            return await _judged(servers, load, marks, struck, planned)


def tool_servers(marks: Marks) -> AbstractAsyncContextManager[Cluster]:
    return cluster(
        PROCESSES,
        endpoint="tests.system.strict_upstream",
        TERTULIA_PLUGINS="tests.system.tool_plugin",
        TERTULIA_TOOLS=",".join(NAMES),
        FAULTS_EFFECTS=str(marks.path),
    )


def _turns(planned: int, chance: random.Random) -> list[Phase]:
    """Every phase in its turn, in an order of chance."""
    turns = list(FIRST)
    while len(turns) < planned:
        turns += chance.sample(AIMS, len(AIMS))
    return turns[:planned]


async def notes_of(servers: Cluster) -> list[tuple[str, str]]:
    """What `note` has written since the last time, which makes room for more."""
    rows = await servers.rows("DELETE FROM tasks RETURNING title, description")
    return [(row["title"], row["description"]) for row in rows]


# ── killing ──


async def _strike(
    servers: Cluster, load: ToolLoad, marks: Marks, phase: Phase, struck: Struck, starting: list[asyncio.Task[None]]
) -> None:
    victim = await victim_in(servers, load, marks, phase)
    worker = victim.worker
    before = {made.reply_id: phase_of(made, marks) for made in load.live}
    await victim.kill()
    struck.kills += 1
    await asyncio.sleep(0.2)  # what was under way to the database and to the readers has arrived
    marks.look()
    held = {reply for reply, _ in await servers.streaming(worker)}
    hit = [made for made in load.live if made.reply_id in held]
    struck.hits.update(made.reply_id for made in hit)
    stood = [found for made in hit if (found := phase_of(made, marks)) is not None]
    stood += [found for reply, found in before.items() if found in OWNERLESS and reply not in held]
    struck.phases.update(stood)
    struck.aimed[phase] += phase in stood
    starting.append(asyncio.create_task(servers.start(victim)))


async def victim_in(servers: Cluster, load: ToolLoad, marks: Marks, phase: Phase) -> ServerProcess:
    """The process that makes a reply in this phase, at the moment it does; never the last one that runs.

    Who makes which reply is asked for now and then, so that between a look and the kill there is no question.
    """
    until, asked, owners = time.monotonic() + PATIENCE_SECONDS, 0.0, dict[str, str]()
    while True:
        if time.monotonic() > asked + OWNERS_SECONDS:
            rows = await servers.rows("SELECT id, owner FROM replies WHERE status = 'STREAMING'")
            owners, asked = {row["id"]: row["owner"] for row in rows}, time.monotonic()
        running = {worker: server for worker, server in servers.owners().items() if server.ready}
        marks.look()
        late = time.monotonic() > until
        stand = [made for made in load.live if late or phase_of(made, marks) is phase]
        if len(running) > 1 and (found := _maker(servers, stand, running, owners, phase)):
            return found
        await asyncio.sleep(LOOK_SECONDS)


def _maker(
    servers: Cluster, stand: list[ToolTalk], running: dict[str, ServerProcess], owners: dict[str, str], phase: Phase
) -> ServerProcess | None:
    if phase is Phase.DECIDING and (asked := [made.asking for made in stand if made.asking is not None]):
        return servers.servers[asked[0] % len(servers.servers)]
    if phase in OWNERLESS:
        return running[min(running)] if stand else None
    makers = [owners.get(made.reply_id, "") for made in stand]
    return next((running[owner] for owner in makers if owner in running), None)


# ── looking back ──


async def _judged(servers: Cluster, load: ToolLoad, marks: Marks, struck: Struck, planned: int) -> Outcome:
    marks.look()
    talks = [made.talk for made in load.talks]
    stored = await stored_replies(servers, talks, NODES)
    effects = Effects.of(marks.all, [*struck.notes, *await notes_of(servers)])
    outcome = Outcome(f"{struck.kills} kills, {sum(struck.hits.values())} replies hit")
    outcome.figures.append(f"{sum(struck.aimed.values())} in the phase that was aimed at")
    outcome.figures += [f"{phase} {times}" for phase, times in struck.phases.most_common()]
    outcome.figures += call_figures(stored, effects)
    faults = await faults_in(servers, talks, lambda talk, reply: _ends(talk, reply, struck))
    await judge_calls(outcome, servers, load, stored, effects, faults)
    outcome.expect(struck.kills == planned, f"{struck.kills} kills instead of {planned}")
    missed = [phase for phase in AIMS if not struck.phases[phase]] if planned >= len(AIMS) else []
    outcome.expect(not missed, f"no kill hit {', '.join(missed)}")
    outcome.expect(bool(struck.hits), "no kill hit a reply")
    return outcome


def _ends(talk: Talk, stored: dict[str, Any], struck: Struck) -> bool:
    """Rescued twice it may be given up; before that it has to go on."""
    interrupted = stored["status"] == "FAILED" and error_of(stored) == "INTERRUPTED"
    return completes(talk, stored) or (interrupted and struck.hits[talk.reply_id] > MAX_RESCUES)
