"""What refusing each abuse costs a real server: `python -m tests.security.abuse`, or with a part of a name behind it.

Sends every abuse 1,000 times, each time as a document of its own, and prints the CPU time of one refusal, client
included, and by how much the memory of the process grew.
"""

import asyncio
import gc
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.doubles import ScriptedModel, answer
from tests.security.abuses import ABUSES, Abuse, Body
from tests.serving import Serving, serving, settings_for

TRIES = 1_000
SETTLED = 200
"""After so many tries every cache is full."""
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Cost:
    """CPU in milliseconds, memory in KiB: what the peak rose by after the first tries."""

    least: float
    median: float
    grown: int


async def send(server: Serving, body: bytes) -> dict[str, Any]:
    async with server.http.post(f"{server.url}/graphql", data=body, headers=JSON) as response:
        answered: dict[str, Any] = await response.json(content_type=None)
        return answered


async def cpu_of(server: Serving, body: bytes) -> float:
    """Milliseconds of CPU that a request costs this process, which is server and client."""
    began = time.process_time()
    await send(server, body)
    return (time.process_time() - began) * 1_000


async def cost_of(server: Serving, abuse: Abuse | Body, tries: int = TRIES, settled: int = SETTLED) -> Cost:
    spent: list[float] = []
    gc.collect()
    for number in range(tries):
        if number == settled:
            before = peak_kib()
        spent.append(await cpu_of(server, abuse.body(number)))
    return Cost(min(spent), statistics.median(spent), peak_kib() - before)


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def main(part: str) -> None:
    print(f"{'abuse':44} {'ms, least':>10} {'ms, median':>11} {'KiB grown':>10}")
    with tempfile.TemporaryDirectory() as folder:
        async with serving(settings_for(Path(folder)), ScriptedModel(answer("Hello"))) as server:
            for name, abuse in ABUSES.items():
                if part in name:
                    cost = await cost_of(server, abuse)
                    print(f"{name:44} {cost.least:10.1f} {cost.median:11.1f} {cost.grown:10}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:])))
