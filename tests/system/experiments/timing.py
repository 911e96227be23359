"""Whether the time of an answer tells who has an account: known and unknown users in random order, one at a time."""

import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.system.accounts import LOGIN, REFRESH, REGISTER, Answer, accounts_on, operate, register
from tests.system.cluster import Cluster, cluster
from tests.system.report import LONG, Outcome, Progress, milliseconds, percentile

TRIES_PER_USER = 9
"""One less than lock an account: a locked one answers at once."""
APART = 0.010
PASSWORD = "the password of everybody"
KINDS = {"known": "BAD_CREDENTIALS", "unknown": "BAD_CREDENTIALS", "taken": "CONFLICT", "free": "OK"} | {
    "stale token": "SESSION_EXPIRED",
    "made-up token": "SESSION_EXPIRED",
}
"""What is asked for, and what the answer must say for its time to count."""


@dataclass
class Times:
    of: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    other: list[str] = field(default_factory=list)
    """Answers that were not what they should be."""

    def apart(self, one: str, other: str) -> float:
        return abs(median(self.of[one]) - median(self.of[other]))


async def time_known_and_unknown(scale: float, seed: int, progress: Progress) -> Outcome:
    """The server does nothing else meanwhile. The long form judges the times, the short one shows them."""
    tries = 200 if scale >= LONG else 9
    times, chance = Times(), random.Random(seed)
    async with cluster(1, **accounts_on()) as servers:
        users = [f"known-{n}@example.com" for n in range(-(-tries // TRIES_PER_USER))]
        for email in users:
            await register(servers, 0, email, PASSWORD)
        stale = await _stale_token(servers)
        plan = [(kind, n) for kind in KINDS for n in range(tries if "known" in kind else tries // 3)]
        chance.shuffle(plan)
        for done, (kind, n) in enumerate(plan):
            await _timed(times, kind, _asked(servers, kind, n, users, stale))
            progress(f"{done} of {len(plan)} answers timed")
    return _judged(times, tries)


def _asked(servers: Cluster, kind: str, n: int, users: Sequence[str], stale: str) -> Awaitable[Answer]:
    match kind:
        case "known":
            return operate(servers, 0, LOGIN, email=users[n // TRIES_PER_USER], password=f"wrong {n}")
        case "unknown":
            return operate(servers, 0, LOGIN, email=f"other-{n // TRIES_PER_USER}@example.com", password=f"wrong {n}")
        case "taken":
            return operate(servers, 0, REGISTER, email=users[n % len(users)], password=PASSWORD)
        case "free":
            return operate(servers, 0, REGISTER, email=f"fresh-{n}@example.com", password=PASSWORD)
        case "stale token":
            return operate(servers, 0, REFRESH, refreshToken=stale)
        case _:
            return operate(servers, 0, REFRESH, refreshToken=f"{n:043d}")


async def _stale_token(servers: Cluster) -> str:
    """One that was used, whose family has ended since."""
    signed_in = await register(servers, 0, "signed-out@example.com", PASSWORD)
    await operate(servers, 0, REFRESH, refreshToken=signed_in.refresh)
    await operate(servers, 0, "mutation { logout(input: {}) { errors { code } } }", signed_in.access)
    return signed_in.refresh


async def _timed(times: Times, kind: str, answer: Awaitable[Answer]) -> None:
    began = time.perf_counter()
    code = (await answer).code
    times.of[kind].append(time.perf_counter() - began)
    if code != KINDS[kind]:
        times.other.append(f"{kind} was answered {code}")


def _judged(times: Times, tries: int) -> Outcome:
    outcome = Outcome(f"{tries} sign-ins of known and of unknown users each, by turns at random")
    for kind, seconds in times.of.items():
        shares = "/".join(milliseconds(percentile(seconds, share)) for share in (0.1, 0.5, 0.9, 0.99))
        outcome.figures.append(f"{kind} p10/50/90/99 {shares}")
    outcome.within("medians of known and unknown apart", times.apart("known", "unknown"), APART)
    outcome.figures.append(f"taken and free {milliseconds(times.apart('taken', 'free'))}")
    outcome.figures.append(f"tokens {milliseconds(times.apart('stale token', 'made-up token'))}")
    outcome.found(times.other, sum(map(len, times.of.values())), "answers")
    return outcome
