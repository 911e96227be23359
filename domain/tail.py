"""The tail of a live reply: what waits to be committed, the newest committed events, and who waits for more.

A generator appends, the journal commits, readers look. Nothing here knows when anything is committed, or where.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from typing import Protocol

from domain.conversations import MessagePart, PartKind
from domain.events import Delta, Finished, Folder, LoggedEvent, ReplyEvent, StatusChanged, Window, queued_again
from domain.replies import HandOver, Lease, Outcome, ReplyStatus
from domain.storage import FlushEntry

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


class Committing(Protocol):
    """The journal, to a tail."""

    def touched(self, tail: "Tail", *, urgent: bool) -> None:
        """Something of it waits to be committed, if urgent before the next tick."""
        ...


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

    def __init__(self, lease: Lease, journal: Committing, shown: Folder) -> None:
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
