"""The heartbeat of this process, and what becomes of replies whose process has none any more.

A reply is an orphan when its owner has not beaten for a lease. After this process itself has been unable to beat,
others may only be late like it: it takes nobody over for one lease more. What a reply says is only counted here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from domain.conversations import Role
from domain.errors import StorageError, Unavailable
from domain.events import Finished, LoggedEvent, fold, untold, written_in
from domain.ports import Ids, Notifier, Telemetry, TokenCounter
from domain.prompting import Prompter, count_said, count_tokens
from domain.replies import INTERRUPTED, FinishReason, HandOver, Lease, Outcome, Owner, Recovery, ReplyStatus, Usage
from domain.spoken import calls_in, said_in
from domain.storage import WHOLE_LOG, FlushEntry, Storage, UnitOfWork
from domain.tool_steps import next_step
from domain.topics import QUEUE, reply_topic, user_topic

Swept = TypeVar("Swept")
LEASE_SECONDS = 10.0
BEAT_TIMEOUT_SECONDS = 3.0
"""One connection that has silently died must not cost the lease."""
MAX_RESCUES = 2
RESCUED_AT_ONCE = 50


class Rescuer:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        tokens: TokenCounter,
        prompter: Prompter,
        ids: Ids,
        telemetry: Telemetry,
        owner: Owner,
        recovery: Recovery,
    ) -> None:
        self._storage = storage
        self._notifier = notifier
        self._tokens = tokens
        self._prompter = prompter
        self._ids = ids
        self._telemetry = telemetry
        self._owner = owner
        self._beating = asyncio.Lock()
        self._recovery = recovery
        self._left = False
        self._last_beat: float | None = None
        self._patient_until = 0.0

    async def start(self) -> None:
        """On an embedded database every earlier lease is over, so that recovery begins at once."""
        async with self._storage.write() as work:
            if self._storage.embedded:
                await work.workers.forget_all()
            await work.workers.enter(self._owner.id)
            await work.commit()
        self._beaten()

    async def beat(self) -> None:
        """Renew the heartbeat. Who was buried meanwhile lost every lease, and goes on under a new name."""
        if self._left:
            return
        async with asyncio.timeout(BEAT_TIMEOUT_SECONDS), self._beating, self._storage.write() as work:
            name = None
            if not await work.workers.beat(self._owner.id):
                name = self._ids.new("work")
                await work.workers.enter(name)
            await work.commit()
        if name is not None:
            self._owner.id = name
            self._telemetry.worker_renamed(name)
        self._beaten()

    async def leave(self) -> None:
        """Give up every lease: what is still STREAMING is an orphan at once."""
        self._left = True
        async with self._storage.write() as work:
            await work.workers.leave(self._owner.id)
            await work.commit()

    async def rescue(self) -> None:
        """Take over every orphan, some in each unit of work: so others who look at the same time get their share.

        It begins with a beat, so it begins only when the database is there.
        """
        await self.beat()
        while not self._is_patient() and await self._rescue_some() == RESCUED_AT_ONCE:
            pass

    async def _rescue_some(self) -> int:
        async with self._storage.write() as work:
            orphans = await work.workers.orphans(LEASE_SECONDS, RESCUED_AT_ONCE)
            taken = [lease for lease in orphans if await self._tried(work, lease)]
            await work.commit()
        if taken:
            self._notifier.ring(QUEUE, *(reply_topic(lease.reply_id) for lease in taken))
            self._notifier.ring(*{user_topic(lease.user_id) for lease in taken})
        return len(taken)

    async def _tried(self, work: UnitOfWork, lease: Lease) -> bool:
        """One reply that cannot be taken over must not keep the others from it."""
        try:
            await self._take_over(work, lease)
        except (StorageError, Unavailable):
            raise
        except Exception as error:
            self._telemetry.reply_crashed(lease.reply_id, error)
            return False
        return True

    async def sweep(self, logs: datetime, deleted: datetime, keys: datetime, events: timedelta) -> None:
        """Remove what has served its purpose: logs of replies that ended, conversations deleted, keys used before.

        Also events of conversations of that age, deleted users, ended sessions and old counters. Each in units of its
        own, so that one that fails holds up no other.
        """
        while await self._swept(lambda work: work.log.sweep(logs)):
            pass
        await self._swept(lambda work: work.conversations.purge(deleted))
        await self._swept(lambda work: work.keys.sweep(keys))
        await self._swept(lambda work: work.feed.sweep(events))
        await self._swept(lambda work: work.users.purge())
        await self._swept(lambda work: work.sessions.sweep())
        await self._swept(lambda work: work.rates.sweep())

    async def _swept(self, sweep: Callable[[UnitOfWork], Awaitable[Swept]]) -> Swept:
        async with self._storage.write() as work:
            swept = await sweep(work)
            await work.commit()
        return swept

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
        shown = fold(log)
        news = untold(shown, await work.tool_calls.of(lease.reply_id) if calls_in(shown) else {})
        log += [LoggedEvent(seq, lease.attempt, event) for seq, event in enumerate(news, lease.next_seq)]
        spent = await self._spent(work, lease, log)
        going_on = not shown or self._recovery is Recovery.CONTINUE
        if going_on and lease.rescues < MAX_RESCUES and not lease.stop_requested:
            await work.workers.requeue(lease, spent, news)
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
        last = [*news, Finished(outcome.status)]
        ended = tuple(LoggedEvent(seq, lease.attempt, event) for seq, event in enumerate(last, lease.next_seq))
        await work.log.settle(FlushEntry(lease, ended, outcome, fold([*log, ended[-1]])))

    async def _spent(self, work: UnitOfWork, lease: Lease, log: Sequence[LoggedEvent]) -> HandOver:
        """What the lost attempt cost, as far as its log can tell: one that answered nothing counts as not asked.

        Where there is a budget to keep to, the worst is believed: that it was asked.
        """
        model = lease.settings.model or ""
        before, parts = fold(logged for logged in log if logged.attempt < lease.attempt), fold(log)
        written = await count_tokens(self._tokens, model, written_in(log, lease.attempt))
        shown = await count_said(self._tokens, model, said_in(Role.ASSISTANT, parts))
        earlier = await count_said(self._tokens, model, said_in(Role.ASSISTANT, before))
        asked = written > 0 or lease.reserved_tokens > 0
        requests = 1 + next_step(parts) - next_step(before)
        prompt = requests * (await self._prompter.input_tokens(work, lease) + earlier) if asked else 0
        return HandOver(Usage(prompt, written, estimated=True), requests, token_count=shown)
