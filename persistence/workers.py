"""Heartbeats of the processes that generate, and the replies whose process is gone."""

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update

from domain.conversations import Change
from domain.events import LoggedEvent, StatusChanged
from domain.ports import Clock
from domain.replies import Lease, ReplyStatus, Usage
from persistence.connection import Connection
from persistence.events import append_events, event_to_row, last_numbers
from persistence.feed import SqlFeed
from persistence.replies import lease_from, stop_in_queue
from persistence.streaming import usage_row
from persistence.tables import conversations, replies, reply_attempts, workers


class SqlWorkers:
    def __init__(self, connection: Connection, clock: Clock, feed: SqlFeed) -> None:
        self._connection = connection
        self._clock = clock
        self._feed = feed

    async def beat(self, owner: str) -> None:
        statement = self._connection.insert(workers).values(id=owner, beat_at=self._connection.now())
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_={"beat_at": statement.excluded.beat_at})
        )

    async def leave(self, owner: str) -> None:
        await self._connection.execute(delete(workers).where(workers.c.id == owner))

    async def forget_all(self) -> None:
        await self._connection.execute(delete(workers))

    async def orphans(self, lease_seconds: float) -> list[Lease]:
        """They and their conversations stay locked, so that nobody writes on while they are looked at.

        What others have locked is left for the next round: so this unit never waits, and nobody waits in a circle.
        """
        dead = workers.c.beat_at < self._connection.now(timedelta(seconds=lease_seconds))
        query = (
            select(replies, conversations.c.user_id)
            .join(conversations, conversations.c.id == replies.c.conversation_id)
            .outerjoin(workers, workers.c.id == replies.c.owner)
            .where(replies.c.status == ReplyStatus.STREAMING.value, or_(workers.c.id.is_(None), dead))
            .order_by(replies.c.id)
            .with_for_update(key_share=True, skip_locked=True, of=[replies, conversations])
        )
        rows = (await self._connection.execute(query)).all()
        newest = await last_numbers(self._connection, [row.id for row in rows]) if rows else {}
        return [lease_from(row, row.attempt, row.owner or "", newest.get(row.id, 0) + 1) for row in rows]

    async def disown(self, reply_id: str, attempt: int) -> None:
        await self._connection.execute(update(replies).where(_holds(reply_id, attempt)).values(owner=None))

    async def requeue(self, lease: Lease) -> None:
        put_back = (
            update(replies)
            .where(_holds(lease.reply_id, lease.attempt))
            .values(
                status=ReplyStatus.QUEUED.value,
                owner=None,
                rescues=replies.c.rescues + 1,
                requests=replies.c.requests + 1,
            )
            .returning(replies)
        )
        row = (await self._connection.execute(put_back)).one_or_none()
        if row is None:
            return
        spent = usage_row(lease, Usage(estimated=True), self._clock.now())
        await self._connection.execute(insert(reply_attempts).values(spent))
        change = LoggedEvent(lease.next_seq, lease.attempt, StatusChanged(ReplyStatus.QUEUED))
        await append_events(self._connection, [event_to_row(lease.reply_id, change)])
        if row.stop_requested:
            await stop_in_queue(self._connection, row, self._clock.now())
        self._feed.add(lease.user_id, Change.MESSAGE_UPDATED, lease.conversation_id, lease.reply_id)


def _holds(reply_id: str, attempt: int) -> ColumnElement[bool]:
    streaming = replies.c.status == ReplyStatus.STREAMING.value
    return and_(replies.c.id == reply_id, replies.c.attempt == attempt, streaming)
