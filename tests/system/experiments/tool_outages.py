"""PostgreSQL killed while tools run and results are stored: also between a COMMIT and its answer.

The servers live on, so nothing is interrupted: what a tool did outside gets its result, and what it did in its unit of
work is there when the call succeeded, and only then.
"""

import asyncio
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.cluster import Cluster
from tests.system.effects import Effects, Marks
from tests.system.experiments.outages import WAYS
from tests.system.experiments.tools import notes_of, tool_servers, victim_in
from tests.system.load import completes, faults_in, stored_replies
from tests.system.report import LONG, Outcome, Progress
from tests.system.tool_faults import NODES
from tests.system.tool_load import ToolLoad
from tests.system.tool_phases import Phase, phase_of
from tests.system.tool_verdicts import call_figures, judge_calls

OUTAGES = 30
LIVE, FEW = 8, 4
PHASES = (Phase.TRANSACTION, Phase.EFFECT, Phase.BETWEEN, Phase.DECIDING, Phase.ARGUMENTS)
TRANSACTION_SECONDS = 0.2
"""From what `note` writes until after its commit."""
DOWN, SHORT = 5.0, 1.5
"""Seconds that it stays away at most: less than servers bear."""


@dataclass
class Outages:
    done: int = 0
    phases: Counter[Phase] = field(default_factory=Counter)
    notes: list[tuple[str, str]] = field(default_factory=list)


async def kill_the_database_in_tools(scale: float, seed: int, progress: Progress) -> Outcome:
    outages, chance, planned = Outages(), random.Random(seed), max(2, round(OUTAGES * scale))
    with tempfile.TemporaryDirectory(prefix="tertulia-effects-") as folder:
        marks = Marks(Path(folder) / "effects")
        async with tool_servers(marks) as servers:
            load = ToolLoad(servers, seed)
            async with load.running(LIVE if scale >= LONG else FEW):
                while outages.done < planned:
                    phase = PHASES[outages.done % len(PHASES)]
                    await _kill(servers, load, marks, phase, chance, DOWN if scale >= LONG else SHORT, outages)
                    progress(f"{outages.done} of {planned} outages, {len(load.talks)} replies")
            return await _judged(servers, load, marks, outages)


async def _kill(
    servers: Cluster,
    load: ToolLoad,
    marks: Marks,
    phase: Phase,
    chance: random.Random,
    longest: float,
    outages: Outages,
) -> None:
    await victim_in(servers, load, marks, phase)
    if phase is Phase.TRANSACTION:
        await asyncio.sleep(chance.uniform(0, TRANSACTION_SECONDS))
    outages.phases.update(found for made in load.live if (found := phase_of(made, marks)) is not None)
    await servers.postgres.kill(chance.choice(WAYS))
    await asyncio.sleep(chance.uniform(0, longest))
    await servers.postgres.start()
    outages.done += 1
    outages.notes += await notes_of(servers)


async def _judged(servers: Cluster, load: ToolLoad, marks: Marks, outages: Outages) -> Outcome:
    marks.look()
    talks = [made.talk for made in load.talks]
    stored = await stored_replies(servers, talks, NODES)
    effects = Effects.of(marks.all, [*outages.notes, *await notes_of(servers)])
    outcome = Outcome(f"{outages.done} outages, {outages.phases.total()} replies live")
    outcome.figures += [f"{phase} {times}" for phase, times in outages.phases.most_common()]
    outcome.figures += call_figures(stored, effects)
    rescued = await servers.number("SELECT count(*) FROM replies WHERE rescues <> 0")
    outcome.expect(not rescued, f"{rescued} replies were taken over from living processes")
    faults = await faults_in(servers, talks, completes)
    await judge_calls(outcome, servers, load, stored, effects, faults)
    return outcome
