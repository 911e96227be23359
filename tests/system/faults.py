"""`make faults`: the experiments at full length, one table at the end, exit code 1 when a row fails.

    python -m tests.system.faults [experiment ...] [--scale 1.0] [--seed N]

An experiment is named by any part of its row's name.
"""

import argparse
import random
import sys
import time
import traceback

import uvloop

from tests.system.experiments import EXPERIMENTS
from tests.system.report import Experiment, Outcome, Progress, row, table

LINE_SECONDS = 10.0
"""How often progress is told where there is no terminal."""


def main() -> int:
    arguments = _arguments()
    chosen = _chosen(arguments.experiment)
    print(f"seed {arguments.seed}, scale {arguments.scale:g}, {len(chosen)} experiments", flush=True)
    outcomes = {}
    for name, experiment in chosen.items():
        began = time.monotonic()
        outcomes[name] = uvloop.run(_run(name, experiment, arguments.scale, arguments.seed))
        print(f"{row(name, outcomes[name])} {time.monotonic() - began:.0f} s", flush=True)
    print(f"\nseed {arguments.seed}, scale {arguments.scale:g}\n\n{table(outcomes)}")
    return 0 if all(outcome.passes for outcome in outcomes.values()) else 1


async def _run(name: str, experiment: Experiment, scale: float, seed: int) -> Outcome:
    """An experiment that breaks off has failed; the others go on."""
    try:
        return await experiment(scale, seed, progress_line(name))
    except Exception as error:
        traceback.print_exc()
        return Outcome(wrong=[f"broke off: {type(error).__name__}: {str(error)[:200]}"])


def progress_line(name: str) -> Progress:
    """One line that is written over in a terminal, and one now and then elsewhere."""
    began, told = time.monotonic(), 0.0

    def show(text: str) -> None:
        nonlocal told
        now, terminal = time.monotonic(), sys.stdout.isatty()
        if now - told < (0.2 if terminal else LINE_SECONDS):
            return
        told = now
        line = f"{name}: {text} ({now - began:.0f} s)"
        print(f"\r{line:<100.100}" if terminal else line, end="\r" if terminal else "\n", flush=True)

    return show


def _chosen(wanted: list[str]) -> dict[str, Experiment]:
    found = {name: made for name, made in EXPERIMENTS.items() if not wanted or any(part in name for part in wanted)}
    if not found:
        sys.exit("no such experiment; there are: " + "; ".join(EXPERIMENTS))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every fault, injected and counted.")
    parser.add_argument("experiment", nargs="*", help="parts of names; all without any")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the full length")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="what chance follows from")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
