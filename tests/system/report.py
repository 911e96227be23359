"""What an experiment found, and the table of all of them.

An outcome passes only by what was seen: an experiment that injected nothing, or saw nothing, says so as a failure.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Progress = Callable[[str], None]
Experiment = Callable[[float, int, Progress], Awaitable["Outcome"]]
LONG = 0.2
"""From this scale on an experiment is as the table means it; below, it is only made small enough for every test run."""


def processes(scale: float) -> int:
    return 3 if scale >= LONG else 2


@dataclass
class Outcome:
    """What was done, what came of it, and what did not hold."""

    injected: str = "nothing"
    figures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What must hold on any machine, however slow."""
    late: list[str] = field(default_factory=list)
    """Times that were too long: asserted by the long form only."""

    @property
    def passes(self) -> bool:
        return not self.wrong and not self.late

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    def within(self, what: str, measured: float, limit: float) -> None:
        """A time in seconds that must not be above its limit; none at all (NaN) is too late."""
        shown = f"{what} {milliseconds(measured)}"
        self.figures.append(shown)
        if not measured <= limit:
            self.late.append(f"{shown}, more than {milliseconds(limit)}")

    def found(self, faults: Sequence[str], checked: int, what: str) -> None:
        """`checked` things were looked at, and these faults were found in them."""
        self.figures.append(f"{checked:,} {what} checked, {len(faults)} faults")
        self.expect(checked > 0, f"no {what} to check")
        self.wrong += list(faults)[:5]
        if len(faults) > 5:
            self.wrong.append(f"... and {len(faults) - 5} more like these")


def percentile(values: Sequence[float], share: float) -> float:
    """NaN when there are none, so that no limit holds."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{1000 * seconds:,.0f} ms"


def row(name: str, outcome: Outcome) -> str:
    verdict = "passes" if outcome.passes else "FAILS: " + "; ".join([*outcome.wrong, *outcome.late])
    return f"| {name} | {outcome.injected} | {', '.join(outcome.figures)} | {verdict} |"


def table(outcomes: dict[str, Outcome]) -> str:
    head = ["| experiment | injected | outcome | verdict |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(row(name, outcome) for name, outcome in outcomes.items())])
