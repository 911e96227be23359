"""Heartbeats of the processes that generate, and the replies whose process is gone."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import and_, delete, func, insert, select, update

from domain.conversations import Change
from domain.events import LoggedEvent, ReplyEvent, queued_again
from domain.ports import Clock
from domain.replies import HandOver, Lease, ReplyStatus
from persistence.budgets import SqlBudgets
from persistence.connection import AnyRow, Connection
from persistence.endings import rescued
from persistence.events import last_numbers
from persistence.feed import SqlFeed
from persistence.replies import lease_from, with_user
from persistence.tables import conversations, replies, workers


class SqlWorkers:
    def __init__(self, connection: Connection, clock: Clock, feed: SqlFeed, budgets: SqlBudgets) -> None:
        self._connection = connection
        self._clock = clock
        self._feed = feed
        self._budgets = budgets

    async def enter(self, owner: str) -> None:
        await self._connection.execute(insert(workers).values(id=owner, beat_at=self._connection.now()))

    async def beat(self, owner: str) -> bool:
        renew = update(workers).where(workers.c.id == owner).values(beat_at=self._connection.now())
        return (await self._connection.execute(renew)).rowcount == 1

    async def leave(self, owner: str) -> None:
        await self._connection.execute(delete(workers).where(workers.c.id == owner))

    async def forget_all(self) -> None:
        await self._connection.execute(delete(workers))

    async def orphans(self, lease_seconds: float, limit: int) -> list[Lease]:
        """They and their conversations stay locked, so that nobody writes on while they are looked at.

        What others have locked is left for the next round: so this unit never waits, and nobody waits in a circle. A
        heartbeat that is locked belongs to a flush under way.
        """
        await self._bury(timedelta(seconds=lease_seconds))
        query = (
            with_user()
            .outerjoin(workers, workers.c.id == replies.c.owner)
            .where(replies.c.status == ReplyStatus.STREAMING.value, workers.c.id.is_(None))
            .order_by(replies.c.id)
            .limit(limit)
            .with_for_update(key_share=True, skip_locked=True, of=[replies, conversations])
        )
        rows = await self._without_heartbeat((await self._connection.execute(query)).all())
        newest = await last_numbers(self._connection, [row.id for row in rows]) if rows else {}
        return [lease_from(row, row.attempt, row.owner or "", newest.get(row.id, 0) + 1) for row in rows]

    async def _without_heartbeat(self, rows: Sequence[AnyRow]) -> list[AnyRow]:
        """A reply that was claimed while its lock was waited for comes with its new owner, who lives."""
        if not rows:
            return []
        owners = sorted({row.owner for row in rows if row.owner is not None})
        query = select(workers.c.id).where(self._connection.among(workers.c.id, owners))
        beating = set((await self._connection.execute(query)).scalars())
        return [row for row in rows if row.owner not in beating]

    async def _bury(self, lease: timedelta) -> None:
        silent = workers.c.beat_at < self._connection.now(lease)
        if not self._connection.is_sqlite:
            silent = and_(silent, func.pg_postmaster_start_time() < self._connection.now(lease))
        found = select(workers.c.id).where(silent).with_for_update(skip_locked=True)
        await self._connection.execute(delete(workers).where(workers.c.id.in_(found)))

    async def disown(self, reply_id: str, attempt: int) -> None:
        streaming = replies.c.status == ReplyStatus.STREAMING.value
        lease = and_(replies.c.id == reply_id, replies.c.attempt == attempt, streaming)
        await self._connection.execute(update(replies).where(lease).values(owner=None))

    async def requeue(self, lease: Lease, ended: HandOver, events: Sequence[ReplyEvent] = ()) -> None:
        numbered = enumerate((*events, *queued_again(lease.attempt)), lease.next_seq)
        logged = [LoggedEvent(seq, lease.attempt, event) for seq, event in numbered]
        if await rescued(self._connection, lease, ended, self._clock.now(), logged):
            self._budgets.spend(lease.user_id, ended.usage)
            self._feed.add(lease.user_id, Change.MESSAGE_UPDATED, lease.conversation_id, lease.reply_id)
