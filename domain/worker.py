"""The worker: claims queued replies and has them made, and keeps to what the database says of them.

One per process. A reply's owner is the fresh id of this start, never a host name, so that a restarted process is not
mistaken for the one before. Nothing here knows what a reply says.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from domain.approvals import ApprovalService
from domain.generation import ReplyGenerator
from domain.journal import Journal
from domain.places import Places
from domain.ports import Clock, Notifier, Telemetry
from domain.replies import Attempt, Lease
from domain.rescue import Rescuer
from domain.storage import Storage
from domain.tail import Halt
from domain.topics import QUEUE, STOP, reply_topic, user_topic

Result = TypeVar("Result")
BEAT_SECONDS = 2.0
POLL_SECONDS = 1.0
JANITOR_SECONDS = 60.0
EXPIRY_SECONDS = 5.0
FAREWELL_SECONDS = 2.0
CLAIM_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things stay after they have served their purpose."""

    stream: timedelta = timedelta(minutes=10)
    deleted: timedelta = timedelta(days=30)
    idempotency: timedelta = timedelta(days=1)
    events: timedelta = timedelta(hours=24)


class ReplyWorker:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        journal: Journal,
        generator: ReplyGenerator,
        rescuer: Rescuer,
        approvals: ApprovalService,
        clock: Clock,
        telemetry: Telemetry,
        retention: Retention,
        places: Places,
    ) -> None:
        self._owner = places.owner
        self.places = places
        self._drained = False
        self.failure = asyncio.Event()
        """Set when the worker has failed: its process must be replaced."""
        self._storage = storage
        self._notifier = notifier
        self._journal = journal
        self._generator = generator
        self._clock = clock
        self._telemetry = telemetry
        self._retention = retention
        self._rescuer = rescuer
        self._approvals = approvals
        self._claiming = asyncio.Lock()
        self._hurried = asyncio.Event()
        places.open(self._make, self._left)

    async def run(self) -> None:
        """Work until cancelled. On an embedded database every earlier lease is over: recovery begins at once.

        Failures of the database are survived. Anything else that ends it sets `failure`.
        """
        try:
            await self._run()
        except Exception as error:
            self.places.closed = True
            self.failure.set()
            self._telemetry.work_failed(error)

    async def _run(self) -> None:
        await self._tried(self._rescuer.start())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._journal.run())
            group.create_task(self._claim_forever())
            group.create_task(self._compare_forever())
            group.create_task(self._every(BEAT_SECONDS, self._rescuer.beat))
            group.create_task(self._every(BEAT_SECONDS, self._rescuer.rescue))
            group.create_task(self._every(EXPIRY_SECONDS, self._expire))
            group.create_task(self._every(JANITOR_SECONDS, self._sweep))

    @property
    def owner(self) -> str:
        """The name under which this process holds replies now."""
        return self._owner.id

    @property
    def draining(self) -> bool:
        """Nothing more is begun here."""
        return self.places.closed

    @property
    def live(self) -> int:
        """How many replies are being made."""
        return len(self.places)

    async def drain(self, grace_seconds: float, least_seconds: float = 0) -> None:
        """Claim nothing more, let live replies end for a while, then hand the rest over; after that nothing is left.

        Unless it is hurried it takes `least_seconds`, so that others may notice that `draining` is set.
        """
        if self._drained:
            return
        self.places.closed = self._drained = True
        noticed = asyncio.create_task(self._unhurried(least_seconds))
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS), self._claiming:
                await self.places.none_held()
        making = self.places.making
        if making:
            making = await self._unless_hurried(making, grace_seconds)
        for tail in self._journal.live():
            tail.stop(Halt.SHUTDOWN)
        if making:
            _, making = await asyncio.wait(making, timeout=FAREWELL_SECONDS)
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making, timeout=FAREWELL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._tried(self._rescuer.leave())
        await noticed

    def hurry(self) -> None:
        """Let a drain wait no longer for replies to end."""
        self._hurried.set()

    async def _unhurried(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()

    async def _unless_hurried(self, making: set[asyncio.Task[None]], seconds: float) -> set[asyncio.Task[None]]:
        """Those that have not ended after so long."""
        everybody = asyncio.create_task(asyncio.wait(making))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait([everybody, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (everybody, hurried):
            waiting.cancel()
        return {task for task in making if not task.done()}

    # ── claiming ──

    async def _claim_forever(self) -> None:
        async with self._notifier.listen(QUEUE) as bell:
            while True:
                claimed = await self._tried(self._claim())
                if claimed != CLAIM_AT_ONCE:
                    await bell.wait(POLL_SECONDS)

    async def _claim(self) -> int:
        async with self._claiming:
            with self.places.claim(CLAIM_AT_ONCE) as room:
                leases = await self._claimed(room) if room else []
                self.places.crowded = len(leases) == room
            for lease in leases:
                self.places.begin(lease)
        self._notifier.ring(*(reply_topic(lease.reply_id) for lease in leases))
        self._notifier.ring(*{user_topic(lease.user_id) for lease in leases})
        return len(leases)

    async def _claimed(self, most: int) -> list[Lease]:
        """Mostly there is nothing to claim, and to see that takes no transaction."""
        async with self._storage.peek() as work:
            if not await work.replies.claimable():
                return []
        async with self._storage.write() as work:
            leases = await work.replies.claim(self._owner.id, most)
            await work.commit()
        return leases

    async def _make(self, lease: Lease) -> None:
        """Make the reply; one that did not reach its end here is nobody's, so that the next sweep takes it over."""
        settled = False
        try:
            settled = await self._generator.run(lease)
        except Exception as error:
            self._telemetry.reply_crashed(lease.reply_id, error)
        if not settled:
            self._journal.abandon(lease)
            self._notifier.ring_here(reply_topic(lease.reply_id))
            await self._tried(self._disown(lease.key))

    def _left(self) -> None:
        self._notifier.ring(QUEUE)

    async def _disown(self, *attempts: Attempt) -> None:
        async with self._storage.write() as work:
            for reply_id, attempt in attempts:
                await work.workers.disown(reply_id, attempt)
            await work.commit()

    # ── what the database says of our replies: stopped, taken away, or ours without our knowing ──

    async def _compare_forever(self) -> None:
        async with self._notifier.listen(STOP) as bell:
            while True:
                await bell.wait(POLL_SECONDS)
                await self._tried(self._compare())

    async def _compare(self) -> None:
        """Obey stops, and let go of what others took over.

        What a send has stored for us without hearing of it is begun, what a claim has taken so is given back.
        """
        async with self._claiming:
            tails = self._journal.live()
            async with self._storage.peek() as work:
                held = {(h.reply_id, h.attempt): h.stop_requested for h in await work.replies.held(self._owner.id)}
            unknown = [key for key in held if not self.places.know(key) and not self.places.resume(key)]
        for tail in tails:
            lease = tail.lease
            if lease.key not in held and tail.outcome is None:
                self._journal.abandon(lease)
                self._notifier.ring_here(reply_topic(lease.reply_id))
            elif held.get(lease.key):
                tail.stop(Halt.STOP)
        if unknown:
            await self._disown(*unknown)

    async def _expire(self) -> None:
        """Go on without those who did not decide on tool calls in time."""
        while await self._approvals.expire():
            pass

    async def _sweep(self) -> None:
        now, retention = self._clock.now(), self._retention
        older = (now - retention.stream, now - retention.deleted, now - retention.idempotency)
        await self._rescuer.sweep(*older, retention.events)

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
