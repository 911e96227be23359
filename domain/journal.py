"""The journal: one flush for all replies that this process makes, and the tail of each in memory.

Persist, then publish: generators append to memory, the journal commits at each tick what all of them have gathered (of
many in groups), and only then are the events put where local readers look, shown to those who wait, and the bells rung.
One flush is in flight at a time. Numbers are given when a flush is put together; after an error the same numbered rows
are sent again, so a lost answer doubles nothing. Nothing here knows models, prompts or readers.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from math import ceil

from domain.conversations import MessagePart, PartKind
from domain.errors import DataRefused, StorageError, Unavailable
from domain.events import (
    Delta,
    Finished,
    Folder,
    LoggedEvent,
    ReplyEvent,
    StatusChanged,
    Window,
    queued_again,
)
from domain.patience import STORAGE_PATIENCE_SECONDS
from domain.ports import Notifier, Telemetry
from domain.replies import HandOver, Lease, Outcome, Owner, ReplyStatus
from domain.storage import FlushEntry, FlushReport, Storage
from domain.topics import reply_topic, user_topic
from domain.turns import Turns

TICK_SECONDS = 0.055
LONGEST_PAUSE_SECONDS = 0.25
"""Of a tick, however long its work takes; each group has its share of it."""
READ_PATIENCE_SECONDS = 0.25
"""While a flush takes longer, models are read on without it."""
GROUP = 128
"""So many models are read for one flush: what one sent is shown before all others are read, and who waits for the
database or begins a reply has its turn between two groups."""
LARGE_CHARACTERS = 4_096
PAUSE_CHARACTERS = 262_144
KEPT_EVENTS = 2_048
Take = Callable[[Sequence[LoggedEvent]], bool]


class Halt(Enum):
    """Why a generator must stop."""

    STOP = auto()
    LOST = auto()
    STORAGE = auto()
    SHUTDOWN = auto()


class Waiting:
    """A reader who waits for news. They are handed to it where it takes them as they are; otherwise it wakes."""

    __slots__ = ("_take", "woken")

    def __init__(self, take: Take) -> None:
        self._take = take
        self.woken = asyncio.get_running_loop().create_future()

    def offer(self, events: Sequence[LoggedEvent]) -> None:
        """What goes wrong is met again by the reader, who is awake then."""
        taken = False
        with suppress(Exception):
            taken = not self.woken.done() and self._take(events)
        if not taken:
            self.wake()

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class Tail:
    """One live reply in this process: what waits to be committed, and the newest committed events.

    `shown` is what earlier attempts had shown of it. The event before those of this attempt is its claim's.
    """

    def __init__(self, lease: Lease, journal: "Journal", shown: Folder) -> None:
        self.lease = lease
        self.halt: Halt | None = None
        self.outcome: Outcome | HandOver | None = None
        self.ended = asyncio.Event()
        self._journal = journal
        self._task: asyncio.Task[Outcome | HandOver] | None = None
        self._numbered = shown
        self._committed = Window(lease.next_seq - 2, KEPT_EVENTS)
        self._committed.add([LoggedEvent(lease.next_seq - 1, lease.attempt, StatusChanged(ReplyStatus.STREAMING))])
        self._pending: list[ReplyEvent] = []
        self._pending_characters = 0
        self._next_seq = lease.next_seq
        self._readers: dict[Waiting, None] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._all_committed = asyncio.Event()
        self._all_committed.set()

    # ── the generator's side ──

    def append(self, event: ReplyEvent) -> None:
        """Hand an event to the next flush; it is visible to nobody before that is committed."""
        self._all_committed.clear()
        if isinstance(event, Delta):
            self._pending_characters += len(event.text)
            last = self._pending[-1] if self._pending else None
            if isinstance(last, Delta) and last.index == event.index:
                self._pending.pop()
                event = type(event)(event.index, last.text + event.text)
        self._pending.append(event)
        first = self._next_seq == self.lease.next_seq
        self._journal.touched(self, urgent=first or self._pending_characters > LARGE_CHARACTERS)
        if self._pending_characters > PAUSE_CHARACTERS:
            self._room.clear()

    @property
    def is_full(self) -> bool:
        """Whether more than PAUSE_CHARACTERS wait to be committed."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait while it is full."""
        await self._room.wait()

    async def flushed(self) -> None:
        """Wait until all that was appended is committed. When the lease is lost, whoever waits is cancelled."""
        if not self._all_committed.is_set():
            self._journal.touched(self, urgent=True)
            await self._all_committed.wait()

    def bind(self, task: "asyncio.Task[Outcome | HandOver]") -> None:
        """The task to cancel when generating must stop."""
        self._task = task
        if self.halt is not None:
            task.cancel()

    def stop(self, reason: Halt) -> None:
        """Make the generator end; a lost lease overrides every other reason."""
        if self.halt is None or reason is Halt.LOST:
            self.halt = reason
            if self._task is not None and self.outcome is None:
                self._task.cancel()

    async def settle(self, outcome: Outcome | HandOver) -> bool:
        """Commit what waits together with the end. False when the lease was lost: then nothing was stored."""
        self.outcome = outcome
        if isinstance(outcome, Outcome):
            self._pending.append(Finished(outcome.status))
        elif outcome.awaits_approval:
            self._pending.append(StatusChanged(ReplyStatus.AWAITING_APPROVAL))
        else:
            self._pending += queued_again(self.lease.attempt)
        self._journal.touched(self, urgent=self.halt is not None)
        await self.ended.wait()
        return self.halt is not Halt.LOST

    # ── the readers' side ──

    async def wait_ended(self, seconds: float) -> None:
        """Wait for the end, or for the loss of the lease, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()

    def after(self, seq: int) -> list[LoggedEvent] | None:
        """Committed events with higher numbers; None when this memory cannot tell.

        It reaches back KEPT_EVENTS events, not forward, and knows nothing more once the lease is lost.
        """
        return None if self.halt is Halt.LOST else self._committed.after(seq)

    async def offered(self, take: Take) -> None:
        """Wait, and have `take` given what is committed meanwhile, until it refuses it or nothing more comes here."""
        if self.ended.is_set():
            return
        waiting = Waiting(take)
        self._readers[waiting] = None
        try:
            await waiting.woken
        finally:
            del self._readers[waiting]

    def parts_so_far(self) -> tuple[MessagePart, ...]:
        """All that is or will be shown, committed or not."""
        folder = self._numbered.copy()
        for event in self._pending:
            folder.add(LoggedEvent(0, self.lease.attempt, event))
        return folder.parts()

    # ── the journal's side ──

    def take(self) -> FlushEntry:
        """Number what waits; from now on these rows are the same however often they are sent."""
        numbered = []
        for event in self._pending:
            logged = LoggedEvent(self._next_seq, self.lease.attempt, event)
            self._next_seq += 1
            self._numbered.add(logged)
            numbered.append(logged)
        self._pending = []
        self._pending_characters = 0
        return FlushEntry(self.lease, tuple(numbered), self.outcome, self._final_parts(self.outcome))

    def committed(self, entry: FlushEntry) -> None:
        self._committed.add(entry.events)
        self._room.set()
        if not self._pending:
            self._all_committed.set()

    def offer(self, entry: FlushEntry) -> None:
        """To those who wait, once it is committed."""
        for reader in self._readers:
            reader.offer(entry.events)

    def end(self) -> None:
        self.ended.set()
        for reader in self._readers:
            reader.wake()

    def _final_parts(self, outcome: Outcome | HandOver | None) -> tuple[MessagePart, ...]:
        if not isinstance(outcome, Outcome):
            return ()
        return tuple(
            replace(part, duration_ms=outcome.reasoning_ms) if part.kind is PartKind.REASONING else part
            for part in self._numbered.parts()
        )


class Journal:
    """Run `run()` for as long as anything is generated; `open()` a tail for each claimed reply."""

    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        telemetry: Telemetry,
        owner: Owner,
        turns: Turns | None = None,
        *,
        patience: float = STORAGE_PATIENCE_SECONDS,
    ) -> None:
        self._patience = patience
        self._storage = storage
        self._notifier = notifier
        self._telemetry = telemetry
        self._owner = owner
        self._tails: dict[str, Tail] = {}
        self._waiting: dict[Tail, None] = {}
        self._urgent: dict[Tail, None] = {}
        self._turns = Turns() if turns is None else turns
        self._hurry = asyncio.Event()
        self._due = 0.0

    def open(self, lease: Lease, shown: Folder) -> Tail:
        """Whoever waits at the tail of an attempt that was taken over in the meantime is told to look again."""
        if (earlier := self._tails.get(lease.reply_id)) is not None:
            self.abandon(earlier.lease)
        tail = Tail(lease, self, shown)
        self._tails[lease.reply_id] = tail
        self._telemetry.replies_live(len(self._tails))
        return tail

    def abandon(self, lease: Lease) -> None:
        """Forget a reply whose generator ended without settling it; readers go to the log."""
        tail = self._tails.get(lease.reply_id)
        if tail is not None and tail.lease.attempt == lease.attempt:
            tail.stop(Halt.LOST)
            self._closed(tail)

    def tail(self, reply_id: str) -> Tail | None:
        return self._tails.get(reply_id)

    def live(self) -> list[Tail]:
        return list(self._tails.values())

    def touched(self, tail: Tail, *, urgent: bool) -> None:
        self._waiting[tail] = None
        self._turns.wanted.set()
        if urgent:
            self._urgent[tail] = None
            self._hurry.set()

    async def run(self) -> None:
        """Flush until cancelled.

        In a tick every model has its turn, in groups. Half of the time is left to everything else, up to the longest
        pause, so under load ticks are longer and deltas larger.
        """
        while True:
            await self._turns.wanted.wait()
            await self._until_due()
            began = self.clock()
            urgent_only = bool(self._urgent) and began < self._due
            share = 1 / max(1, ceil(len(self._turns) / GROUP))
            if not urgent_only:
                await self._turns.give(share)
            await self._flush_those_of(self._urgent if urgent_only else self._waiting)
            if not urgent_only:
                spent = self.clock() - began
                self._due = began + max(share * TICK_SECONDS, spent + min(spent, share * LONGEST_PAUSE_SECONDS))

    async def _flush_those_of(self, chosen: dict[Tail, None]) -> None:
        batch = list(chosen)
        for tail in batch:
            self._waiting.pop(tail, None)
        self._urgent, self._hurry = {}, asyncio.Event()
        if not self._waiting and not self._turns:
            self._turns.wanted.clear()
        if batch:
            await self._flush(batch)

    async def _until_due(self) -> None:
        """Wait for the tick, or for a first piece, which must not wait for it."""
        remaining = self._due - self.clock()
        if remaining <= 0 or self._urgent:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(remaining):
                await self._hurry.wait()

    async def _flush(self, batch: list[Tail]) -> None:
        entries = [tail.take() for tail in batch]
        started = self.clock()
        report = await self._written(entries)
        seconds = self.clock() - started
        self._telemetry.journal_flushed(seconds, sum(len(entry.events) for entry in entries))
        for tail, entry, mine in zip(batch, entries, report.mine, strict=True):
            self._publish(tail, entry, mine)
        for tail in self.live():
            if tail.lease.key in report.to_stop:
                tail.stop(Halt.STOP)
        for tail, entry, mine in zip(batch, entries, report.mine, strict=True):
            if mine:
                tail.offer(entry)
        self._notifier.ring(*(reply_topic(entry.lease.reply_id) for entry in entries))
        self._notifier.ring(*{user_topic(entry.lease.user_id) for entry in entries if entry.outcome is not None})

    async def _written(self, entries: list[FlushEntry]) -> FlushReport:
        """Send the same rows until they are confirmed; while that takes too long, generators are told to give up.

        Rows that the database can never take are given up, so that one reply's do not hold up all the others'.
        """
        started, pause = self.clock(), 0.05
        while True:
            try:
                return await self._sent(entries)
            except Exception as error:
                self._telemetry.work_failed(error)
                if isinstance(error, DataRefused) or not isinstance(error, Unavailable | StorageError):
                    return await self._one_by_one(entries)
            if self.clock() - started > self._patience:
                for tail in self.live():
                    tail.stop(Halt.STORAGE)
            await self._turns.give()
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)

    async def _sent(self, entries: list[FlushEntry]) -> FlushReport:
        """While a database is slow to answer, what models send is read on."""
        flush = asyncio.ensure_future(self._storage.flush(self._owner.id, entries))
        try:
            while not flush.done():
                await asyncio.wait([flush], timeout=READ_PATIENCE_SECONDS)
                if not flush.done():
                    await self._turns.give()
        finally:
            flush.cancel()
        return await flush

    async def _one_by_one(self, entries: list[FlushEntry]) -> FlushReport:
        if len(entries) == 1:
            return FlushReport((False,))
        reports = [await self._written([entry]) for entry in entries]
        mine = tuple(mine for report in reports for mine in report.mine)
        return FlushReport(mine, frozenset().union(*(report.to_stop for report in reports)))

    def _publish(self, tail: Tail, entry: FlushEntry, mine: bool) -> None:
        if mine:
            tail.committed(entry)
        else:
            tail.stop(Halt.LOST)
        if entry.outcome is not None or not mine:
            self._closed(tail)

    def _closed(self, tail: Tail) -> None:
        if self._tails.get(tail.lease.reply_id) is tail:
            del self._tails[tail.lease.reply_id]
        self._telemetry.replies_live(len(self._tails))
        tail.end()

    @staticmethod
    def clock() -> float:
        return asyncio.get_running_loop().time()
