"""The journal: one flush for all replies that this process makes.

Persist, then publish: generators append to tails in memory, the journal commits at each tick what all of them have
gathered (of many in groups), and only then are the events put where local readers look, shown to those who wait, and
the bells rung. One flush is in flight at a time. Numbers are given when a flush is put together; after an error the
same numbered rows are sent again, so a lost answer doubles nothing. Nothing here knows models, prompts or readers.
"""

import asyncio
import time
from contextlib import suppress
from math import ceil

from domain.errors import DataRefused, StorageError, Unavailable
from domain.events import Folder
from domain.patience import STORAGE_PATIENCE_SECONDS
from domain.ports import Notifier, Telemetry
from domain.replies import Lease, Owner
from domain.storage import FlushEntry, FlushReport, Storage
from domain.tail import Halt, Tail
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

        In a tick every model has its turn, in groups. As much time as this process worked on them is left to everything
        else, up to the longest pause, so under load ticks are longer and deltas larger. Waiting is no work.
        """
        while True:
            await self._turns.wanted.wait()
            await self._until_due()
            began, worked = self.clock(), time.process_time()
            urgent_only = bool(self._urgent) and began < self._due
            share = 1 / max(1, ceil(len(self._turns) / GROUP))
            if not urgent_only:
                await self._turns.give(share)
            await self._flush_those_of(self._urgent if urgent_only else self._waiting)
            if not urgent_only:
                worked = time.process_time() - worked
                self._due = max(began + share * TICK_SECONDS, self.clock() + min(worked, share * LONGEST_PAUSE_SECONDS))

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
