"""Processes stopped by SIGSTOP beyond their lease in the middle of a tool, and let go on when others have taken over.

The thawed tool ends its work, whose effect nobody can take back; its result, and what it did in its unit of work, must
not be stored beside what the next owner said of the call.
"""

import asyncio
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.cluster import Cluster
from tests.system.effects import Effects, Marks
from tests.system.experiments.freezes import THAWED_SECONDS, late_rows, taken_over
from tests.system.experiments.tools import notes_of, tool_servers, victim_in
from tests.system.load import completes, faults_in, stored_replies
from tests.system.processes import ServerProcess
from tests.system.report import LONG, Outcome, Progress
from tests.system.tool_faults import NODES
from tests.system.tool_load import ToolLoad
from tests.system.tool_phases import Phase
from tests.system.tool_verdicts import judge_calls
from tests.system.tool_watching import calls_in

FREEZES = 12
LIVE, FEW = 6, 3
PHASES = (Phase.TRANSACTION, Phase.EFFECT, Phase.STARTED)
RUNNING, UNFINISHED = "status = 'RUNNING'", "status <> 'SUCCEEDED'"


@dataclass
class Frozen:
    done: int = 0
    held: int = 0
    taken: int = 0
    """Live replies of frozen processes, and those of them that others took over in time."""
    late_rows: int = 0
    running: set[str] = field(default_factory=set)
    """Calls that a frozen process was running, of replies that were taken over."""
    notes: list[tuple[str, str]] = field(default_factory=list)


async def freeze_in_tools(scale: float, seed: int, progress: Progress) -> Outcome:
    frozen, chance, planned = Frozen(), random.Random(seed), max(1, round(FREEZES * scale))
    with tempfile.TemporaryDirectory(prefix="tertulia-effects-") as folder:
        marks = Marks(Path(folder) / "effects")
        async with tool_servers(marks) as servers:
            load = ToolLoad(servers, seed)
            async with load.running(LIVE if scale >= LONG else FEW):
                while frozen.done < planned:
                    phase = PHASES[frozen.done] if frozen.done < len(PHASES) else chance.choice(PHASES)
                    await _freeze(servers, load, marks, phase, frozen)
                    frozen.notes += await notes_of(servers)
                    progress(f"{frozen.done} of {planned} frozen and thawed, {frozen.taken} replies taken over")
            return await _judged(servers, load, marks, frozen)


async def _freeze(servers: Cluster, load: ToolLoad, marks: Marks, phase: Phase, frozen: Frozen) -> None:
    victim, held, running = await _stopped_at_work(servers, load, marks, phase)
    taken, before = await taken_over(servers, held, [str(victim.worker)])
    running = await _calls(servers, held, UNFINISHED) & running  # a result may have been on its way all the same
    victim.thaw()
    await asyncio.sleep(THAWED_SECONDS)
    frozen.late_rows += await late_rows(servers, held, before)
    frozen.done += 1
    frozen.held += len(held)
    frozen.taken += len(taken)
    frozen.running |= running if len(taken) == len(held) else set()


async def _stopped_at_work(
    servers: Cluster, load: ToolLoad, marks: Marks, phase: Phase
) -> tuple[ServerProcess, dict[str, int], set[str]]:
    """A process that was stopped while it ran tools: the replies that it makes, with their attempts, and the calls."""
    while True:
        victim = await victim_in(servers, load, marks, phase)
        victim.freeze()
        await asyncio.sleep(0.2)  # what was under way to the database has arrived
        held = dict(await servers.streaming(str(victim.worker)))
        if running := await _calls(servers, held, RUNNING):
            return victim, held, running
        victim.thaw()


async def _calls(servers: Cluster, held: dict[str, int], which: str) -> set[str]:
    query = f"SELECT id FROM tool_calls WHERE reply_id = ANY($1) AND {which}"
    return {row["id"] for row in await servers.rows(query, list(held))}


async def _judged(servers: Cluster, load: ToolLoad, marks: Marks, frozen: Frozen) -> Outcome:
    marks.look()
    talks = [made.talk for made in load.talks]
    stored = await stored_replies(servers, talks, NODES)
    effects = Effects.of(marks.all, [*frozen.notes, *await notes_of(servers)])
    calls = [call for reply in stored.values() for call in calls_in(reply["parts"]) if call["id"] in frozen.running]
    late = [call for call in calls if call["name"] != "look" and call["status"] == "SUCCEEDED"]
    outcome = Outcome(f"{frozen.done} freezes beyond the lease, {frozen.taken} of {frozen.held} replies taken over")
    outcome.figures += [
        f"{len(calls)} calls ran in the frozen",
        f"{sum(effects.calls[call['id']] for call in calls)} of them took effect",
        f"{len(late)} results of the thawed stored",
        f"{frozen.late_rows} rows written after a takeover",
    ]
    outcome.expect(bool(calls), "no tool ran in a frozen process")
    outcome.expect(frozen.taken == frozen.held, f"{frozen.held - frozen.taken} replies were not taken over")
    outcome.expect(not late, f"{len(late)} results of the thawed were stored: {late[:2]}")
    outcome.expect(not frozen.late_rows, f"{frozen.late_rows} rows written by the thawed")
    faults = await faults_in(servers, talks, completes)
    await judge_calls(outcome, servers, load, stored, effects, faults)
    return outcome
