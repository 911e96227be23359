"""The processes of the experiment on conversationEvents: one that writes, or one that follows all users.

Started by `feed_experiment.py` with a Task as its only argument; knows nothing of what is compared in the end.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from sqlalchemy import text
from uuid_utils import uuid7

from domain.conversation_service import ConversationService
from domain.conversations import Change, GenerationSettings
from domain.feed import DIGITS, ConversationFeed, ResyncRequired
from domain.inputs import CreateConversation, Rules
from domain.limits import Allowances, UserLimits
from domain.relay import Relay
from domain.streaming import cursor_at, position_in
from persistence.database import Database
from persistence.feed import SqlFeed
from persistence.notifier import EventBell, LocalNotifier
from persistence.unit_of_work import SqlStorage, SqlUnitOfWork
from tests.doubles import RecordingTelemetry, ScriptedModel, WordCounter
from tests.toolbox import StubToolbox

USERS = [f"user_{number:032x}" for number in range(1, 41)]
BUSY_USERS = 4
UNITS_AT_ONCE = 5
CONNECTIONS_OF_A_READER = 6
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 30.0
READY = b"ready\n"
SERIAL_WRITE = "INSERT INTO serial_events (user_id, kind, conversation_id) VALUES (:user_id, :kind, :conversation_id)"
SERIAL_READ = "SELECT id FROM serial_events WHERE user_id = :user_id AND id > :last ORDER BY id LIMIT 100"


@dataclass(frozen=True, slots=True)
class Task:
    """What a process is to do. `serial` is the control: numbers from a bigserial instead of our counter."""

    role: str
    url: str
    seed: int
    serial: bool
    events: int = 0


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class TimeOrderedIds:
    def new(self, prefix: str) -> str:
        return f"{prefix}_{uuid7().hex}"


async def line_from_parent() -> str:
    """Say that all is ready, and wait for a word."""
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    return await asyncio.to_thread(sys.stdin.readline)


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
        unlimited = Allowances(storage, UserLimits())
        ports = (ScriptedModel(), WordCounter(), unlimited, SystemClock(), TimeOrderedIds())
        self._service = ConversationService(storage, LocalNotifier(), *ports, rules, defaults, StubToolbox())

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
                await self._create()
            elif chance < 0.8:
                self._left -= 1
                await self._service.rename(*self._chance.choice(self._made), f"Number {self._left}")
            else:
                await self._rename_several()

    async def _create(self) -> None:
        user_id = self._chance.choice(USERS[:BUSY_USERS] if self._chance.random() < 0.5 else USERS)
        conversation_id, _ = await self._service.create(user_id, CreateConversation(title=f"Number {self._left}"))
        self._made.append((user_id, conversation_id))

    async def _rename_several(self) -> None:
        """Of several users in one unit of work, as a flush ends replies of several users."""
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


async def write(task: Task) -> None:
    database = Database(task.url, pool_size=UNITS_AT_ONCE)
    kind = SerialStorage if task.serial else SqlStorage
    await line_from_parent()
    await Writer(kind(database, SystemClock()), task.seed, task.events).run()
    await database.close()


# ── reading ──


class Polling:
    """A notifier whose bells ring all the time: nothing may depend on when a reader looks."""

    def ring(self, *topics: str) -> None:
        pass

    def ring_here(self, *topics: str) -> None:
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
    """What one process was told: per user, the numbers in the order in which they came."""

    numbers: dict[str, list[int]] = field(default_factory=lambda: {user_id: [] for user_id in USERS})
    resyncs: int = 0
    reconnects: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.numbers.values()))

    def reached(self, last: dict[str, int]) -> bool:
        return all(self.last(user_id) >= seq for user_id, seq in last.items())

    def last(self, user_id: str) -> int:
        return self.numbers[user_id][-1] if self.numbers[user_id] else 0


async def follow(feed: ConversationFeed, user_id: str, told: Told, chance: random.Random) -> None:
    """One user's events, hanging up now and then."""
    cursor = cursor_at(user_id, 0)
    while True:
        left = chance.randint(1, 60)
        async with aclosing(feed.follow(user_id, cursor)) as stream:
            async for event in stream:
                cursor, left = event.cursor, left - 1
                told.resyncs += isinstance(event.event, ResyncRequired)
                told.numbers[user_id].append(position_in(user_id, cursor, digits=DIGITS) or 0)
                if left == 0:
                    break
        told.reconnects += 1


async def follow_serial(database: Database, user_id: str, told: Told) -> None:
    while True:
        position = {"user_id": user_id, "last": told.last(user_id)}
        async with database.connect(writing=False) as connection:
            found = list((await connection.execute(text(SERIAL_READ), position)).scalars())
        told.numbers[user_id] += found
        if not found:
            await asyncio.sleep(POLL_SECONDS)


async def read(task: Task) -> None:
    """Read until the last numbers, which the parent tells, have come, or nothing comes for long; print what came."""
    database, told = Database(task.url, pool_size=CONNECTIONS_OF_A_READER), Told()
    storage, chance = SqlStorage(database, SystemClock()), random.Random(task.seed)
    telemetry = RecordingTelemetry()
    relay = Relay(storage, Polling(), telemetry)
    feed = ConversationFeed(storage, Polling(), relay, SystemClock(), telemetry)
    reading = [
        asyncio.create_task(follow_serial(database, each, told) if task.serial else follow(feed, each, told, chance))
        for each in USERS
    ]
    last: dict[str, int] = json.loads(await line_from_parent())
    count, came = told.count, time.monotonic()
    while not told.reached(last) and time.monotonic() < came + PATIENCE_SECONDS:
        await asyncio.wait(reading, timeout=POLL_SECONDS)
        if told.count > count:
            count, came = told.count, time.monotonic()
    for each in reading:
        each.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    await database.close()
    print(json.dumps(asdict(told)))


if __name__ == "__main__":
    given = Task(**json.loads(sys.argv[1]))
    asyncio.run(write(given) if given.role == "write" else read(given))
