"""The worker: claims queued replies, keeps the process's heartbeat, takes over from the dead, sweeps what is old.

One per process. A reply's owner is the fresh id of this start, never a host name, so that a restarted process is not
mistaken for the one before. Nothing here knows what a reply says.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from domain.events import Finished, LoggedEvent, fold
from domain.generation import ReplyGenerator
from domain.journal import Halt, Journal, reply_topic
from domain.ports import Clock, FlushEntry, Ids, Notifier, Storage, Telemetry, TokenCounter, UnitOfWork
from domain.prompting import count_tokens
from domain.replies import INTERRUPTED, FinishReason, Lease, Outcome, ReplyStatus, Usage

Result = TypeVar("Result")

QUEUE_TOPIC = "replies:queued"
STOP_TOPIC = "replies:stop"
BEAT_SECONDS = 2.0
LEASE_SECONDS = 10.0
POLL_SECONDS = 1.0
JANITOR_SECONDS = 60.0
MAX_RESCUES = 2
CLAIM_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things stay after they have served their purpose."""

    stream: timedelta = timedelta(minutes=10)
    deleted: timedelta = timedelta(days=30)
    idempotency: timedelta = timedelta(days=1)


class ReplyWorker:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        journal: Journal,
        generator: ReplyGenerator,
        tokens: TokenCounter,
        clock: Clock,
        ids: Ids,
        telemetry: Telemetry,
        retention: Retention,
        max_live: int,
    ) -> None:
        self.owner = ids.new("work")
        self.draining = False
        self.failed = False
        self._storage = storage
        self._notifier = notifier
        self._journal = journal
        self._generator = generator
        self._tokens = tokens
        self._clock = clock
        self._telemetry = telemetry
        self._retention = retention
        self._max_live = max_live
        self._making: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Work until cancelled. On an embedded database every earlier lease is over: recovery begins at once.

        Failures of the database are survived. Anything else that ends it sets `failed`: the process must be replaced.
        """
        try:
            await self._run()
        except Exception as error:
            self.failed = True
            self._telemetry.work_failed(error)

    async def _run(self) -> None:
        if self._storage.embedded:
            await self._tried(self._forget_all())
        await self._tried(self._beat())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._journal.run())
            group.create_task(self._claim_forever())
            group.create_task(self._watch_stops())
            group.create_task(self._every(BEAT_SECONDS, self._beat))
            group.create_task(self._every(BEAT_SECONDS, self._rescue))
            group.create_task(self._every(JANITOR_SECONDS, self._sweep))

    async def drain(self, grace_seconds: float) -> None:
        """Claim nothing more, let live replies end for a while, then end the rest as interrupted, with their text."""
        self.draining = True
        if self._making:
            await asyncio.wait(list(self._making.values()), timeout=grace_seconds)
        for tail in self._journal.live():
            tail.stop(Halt.SHUTDOWN)
        if self._making:
            await asyncio.wait(list(self._making.values()), timeout=5)
        await self._tried(self._leave())

    # ── claiming ──

    async def _claim_forever(self) -> None:
        async with self._notifier.listen(QUEUE_TOPIC) as bell:
            while True:
                claimed = await self._tried(self._claim())
                if not claimed:
                    await bell.wait(POLL_SECONDS)

    async def _claim(self) -> int:
        room = min(CLAIM_AT_ONCE, self._max_live - len(self._making))
        if self.draining or room <= 0:
            return 0
        async with self._storage.write() as work:
            leases = await work.replies.claim(self.owner, room)
            await work.commit()
        for lease in leases:
            task = asyncio.create_task(self._make(lease), name=f"reply {lease.reply_id}")
            self._making[lease.reply_id] = task
            task.add_done_callback(partial(self._made, lease.reply_id))
        self._notifier.ring(*(reply_topic(lease.reply_id) for lease in leases))
        return len(leases)

    async def _make(self, lease: Lease) -> None:
        """Make the reply; one that did not reach its end here is nobody's, so that the next sweep takes it over."""
        settled = False
        try:
            settled = await self._generator.run(lease)
        except Exception as error:
            self._telemetry.reply_crashed(lease.reply_id, error)
        if not settled:
            self._journal.abandon(lease)
            await self._tried(self._disown(lease))

    def _made(self, reply_id: str, _task: asyncio.Task[None]) -> None:
        self._making.pop(reply_id, None)
        self._notifier.ring(QUEUE_TOPIC)

    async def _disown(self, lease: Lease) -> None:
        async with self._storage.write() as work:
            await work.workers.disown(lease)
            await work.commit()

    # ── stopping ──

    async def _watch_stops(self) -> None:
        async with self._notifier.listen(STOP_TOPIC) as bell:
            while True:
                await bell.wait(POLL_SECONDS)
                if self._making:
                    await self._tried(self._obey_stops())

    async def _obey_stops(self) -> None:
        async with self._storage.read() as work:
            flagged = await work.replies.stop_flags(self.owner)
        for reply_id in flagged:
            if (tail := self._journal.tail(reply_id)) is not None:
                tail.stop(Halt.STOP)

    # ── heartbeat, rescue, sweeps ──

    async def _beat(self) -> None:
        async with self._storage.write() as work:
            await work.workers.beat(self.owner)
            await work.commit()

    async def _leave(self) -> None:
        async with self._storage.write() as work:
            await work.workers.leave(self.owner)
            await work.commit()

    async def _forget_all(self) -> None:
        async with self._storage.write() as work:
            await work.workers.forget_all()
            await work.commit()

    async def _rescue(self) -> None:
        async with self._storage.write() as work:
            orphans = await work.workers.orphans(LEASE_SECONDS)
            for lease in orphans:
                await self._take_over(work, lease)
            if not orphans:
                return
            await work.commit()
        self._notifier.ring(QUEUE_TOPIC, *(reply_topic(lease.reply_id) for lease in orphans))

    async def _take_over(self, work: UnitOfWork, lease: Lease) -> None:
        """Nothing shown yet: ask again. Text shown: keep it and say that it broke off."""
        parts = fold(await work.log.after(lease.reply_id, 0, 2**31 - 1))
        if not parts and lease.rescues < MAX_RESCUES:
            await work.workers.requeue(lease)
            return
        text = "".join(part.text for part in parts)
        tokens = await count_tokens(self._tokens, lease.settings.model or "", text)
        outcome = Outcome(
            ReplyStatus.FAILED,
            FinishReason.ERROR,
            error=INTERRUPTED,
            usage=Usage(output_tokens=tokens, estimated=True),
            token_count=tokens,
        )
        finished = LoggedEvent(lease.next_seq, lease.attempt, Finished(outcome.status))
        await work.log.flush([FlushEntry(lease, (finished,), outcome, parts)])

    async def _sweep(self) -> None:
        now = self._clock.now()
        async with self._storage.write() as work:
            await work.log.sweep(now - self._retention.stream)
            await work.conversations.purge(now - self._retention.deleted)
            await work.keys.sweep(now - self._retention.idempotency)
            await work.commit()

    async def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await self._tried(work())
            await asyncio.sleep(seconds)

    async def _tried(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """The result, or None when it failed, as it does while the database is away: the next round tries again."""
        try:
            return await work
        except Exception as error:
            self._telemetry.work_failed(error)
            return None
