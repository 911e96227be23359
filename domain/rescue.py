"""The heartbeat of this process, and what becomes of replies whose process has none any more.

A reply is an orphan when its owner has not beaten for a lease. After this process itself has been unable to beat,
others may only be late like it: it takes nobody over for one lease more. What a reply says is only counted here.
"""

import asyncio
from datetime import datetime, timedelta

from domain.accounts import user_topic
from domain.events import Finished, LoggedEvent, fold
from domain.journal import reply_topic
from domain.ports import FlushEntry, Notifier, Storage, TokenCounter, UnitOfWork
from domain.prompting import count_tokens
from domain.replies import INTERRUPTED, FinishReason, Lease, Outcome, ReplyStatus, Usage

QUEUE_TOPIC = "replies:queued"
LEASE_SECONDS = 10.0
MAX_RESCUES = 2
WHOLE_LOG = 2**31 - 1


class Rescuer:
    def __init__(self, storage: Storage, notifier: Notifier, tokens: TokenCounter, owner: str) -> None:
        self._storage = storage
        self._notifier = notifier
        self._tokens = tokens
        self._owner = owner
        self._left = False
        self._last_beat: float | None = None
        self._patient_until = 0.0

    async def start(self) -> None:
        """On an embedded database every earlier lease is over, so that recovery begins at once."""
        async with self._storage.write() as work:
            if self._storage.embedded:
                await work.workers.forget_all()
            await work.workers.beat(self._owner)
            await work.commit()
        self._beaten()

    async def beat(self) -> None:
        async with self._storage.write() as work:
            if not self._left:
                await work.workers.beat(self._owner)
            await work.commit()
        self._beaten()

    async def leave(self) -> None:
        """Give up every lease: what is still STREAMING is an orphan at once."""
        self._left = True
        async with self._storage.write() as work:
            await work.workers.leave(self._owner)
            await work.commit()

    async def rescue(self) -> None:
        """Take over every orphan: all of them in one unit of work, which began only when the database was there."""
        async with self._storage.write() as work:
            if not self._left:
                await work.workers.beat(self._owner)
            self._beaten()
            orphans = [] if self._is_patient() else await work.workers.orphans(LEASE_SECONDS)
            for lease in orphans:
                await self._take_over(work, lease)
            await work.commit()
        if orphans:
            self._notifier.ring(QUEUE_TOPIC, *(reply_topic(lease.reply_id) for lease in orphans))
            self._notifier.ring(*{user_topic(lease.user_id) for lease in orphans})

    async def sweep(self, logs: datetime, deleted: datetime, keys: datetime, events: timedelta) -> None:
        """Remove what has served its purpose: logs of replies that ended, conversations deleted, keys used before.

        Also events of conversations of that age.
        """
        async with self._storage.write() as work:
            await work.log.sweep(logs)
            await work.conversations.purge(deleted)
            await work.keys.sweep(keys)
            await work.feed.sweep(events)
            await work.commit()

    def _beaten(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._last_beat is not None and now - self._last_beat > LEASE_SECONDS / 2:
            self._patient_until = now + LEASE_SECONDS
        self._last_beat = now

    def _is_patient(self) -> bool:
        return asyncio.get_running_loop().time() < self._patient_until

    async def _take_over(self, work: UnitOfWork, lease: Lease) -> None:
        """Nothing shown yet: ask again. Text shown: keep it, and say that it broke off, or was stopped."""
        parts = fold(await work.log.after(lease.reply_id, 0, WHOLE_LOG))
        if not parts and lease.rescues < MAX_RESCUES:
            await work.workers.requeue(lease)
            return
        text = "".join(part.text for part in parts)
        tokens = await count_tokens(self._tokens, lease.settings.model or "", text)
        stopped = lease.stop_requested
        outcome = Outcome(
            ReplyStatus.STOPPED if stopped else ReplyStatus.FAILED,
            FinishReason.STOPPED_BY_USER if stopped else FinishReason.ERROR,
            error=None if stopped else INTERRUPTED,
            usage=Usage(output_tokens=tokens, estimated=True),
            requests=1,
            token_count=tokens,
        )
        finished = LoggedEvent(lease.next_seq, lease.attempt, Finished(outcome.status))
        await work.log.flush([FlushEntry(lease, (finished,), outcome, parts)])
