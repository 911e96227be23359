"""The heartbeat of this process, and what becomes of replies whose process has none any more.

A reply is an orphan when its owner has not beaten for a lease. After this process itself has been unable to beat,
others may only be late like it: it takes nobody over for one lease more. What a reply says is only counted here.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from domain.events import Finished, LoggedEvent, fold, text_in
from domain.ports import Notifier, TokenCounter
from domain.prompting import Prompter, count_tokens
from domain.replies import INTERRUPTED, FinishReason, HandOver, Lease, Outcome, Recovery, ReplyStatus, Usage
from domain.storage import FlushEntry, Storage, UnitOfWork
from domain.topics import QUEUE, reply_topic, user_topic

LEASE_SECONDS = 10.0
MAX_RESCUES = 2
RESCUED_AT_ONCE = 50
WHOLE_LOG = 2**31 - 1


class Rescuer:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        tokens: TokenCounter,
        prompter: Prompter,
        owner: str,
        recovery: Recovery,
    ) -> None:
        self._storage = storage
        self._notifier = notifier
        self._tokens = tokens
        self._prompter = prompter
        self._owner = owner
        self._recovery = recovery
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
        """Take over every orphan, some in each unit of work: so others who look at the same time get their share."""
        while len(await self._rescue_some()) == RESCUED_AT_ONCE:
            pass

    async def _rescue_some(self) -> list[Lease]:
        """The unit begins with a beat, so it began only when the database was there."""
        async with self._storage.write() as work:
            if not self._left:
                await work.workers.beat(self._owner)
            self._beaten()
            orphans = [] if self._is_patient() else await work.workers.orphans(LEASE_SECONDS, RESCUED_AT_ONCE)
            for lease in orphans:
                await self._take_over(work, lease)
            await work.commit()
        if orphans:
            self._notifier.ring(QUEUE, *(reply_topic(lease.reply_id) for lease in orphans))
            self._notifier.ring(*{user_topic(lease.user_id) for lease in orphans})
        return orphans

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
        """Ask again, going on from what was shown; or keep that, and say that it broke off, or was stopped."""
        log = await work.log.after(lease.reply_id, 0, WHOLE_LOG)
        parts = fold(log)
        spent = await self._spent(work, lease, log)
        going_on = not parts or self._recovery is Recovery.CONTINUE
        if going_on and lease.rescues < MAX_RESCUES and not lease.stop_requested:
            await work.workers.requeue(lease, spent)
            return
        stopped = lease.stop_requested
        outcome = Outcome(
            ReplyStatus.STOPPED if stopped else ReplyStatus.FAILED,
            FinishReason.STOPPED_BY_USER if stopped else FinishReason.ERROR,
            error=None if stopped else INTERRUPTED,
            usage=spent.usage,
            requests=spent.requests,
            token_count=spent.token_count,
        )
        finished = LoggedEvent(lease.next_seq, lease.attempt, Finished(outcome.status))
        await work.log.settle(FlushEntry(lease, (finished,), outcome, parts))

    async def _spent(self, work: UnitOfWork, lease: Lease, log: Sequence[LoggedEvent]) -> HandOver:
        """What the lost attempt cost, as far as its log can tell: nothing shown counts as nothing used."""
        model = lease.settings.model or ""
        written = await count_tokens(self._tokens, model, text_in(log, lease.attempt))
        shown = await count_tokens(self._tokens, model, text_in(log))
        asked = await self._prompter.input_tokens(work, lease) + shown - written if written else 0
        return HandOver(Usage(asked, written, estimated=True), requests=1, token_count=shown)
