"""Heartbeats of the processes that generate, and the replies whose process is gone."""

from datetime import timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import LoggedEvent, StatusChanged
from domain.replies import Lease, ReplyStatus
from persistence.database import Database
from persistence.replies import last_seq, lease_from
from persistence.streaming import append_events, event_to_row
from persistence.tables import replies, workers


class SqlWorkers:
    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database

    async def beat(self, owner: str) -> None:
        dialect = sqlite if self._database.is_sqlite else postgresql
        now = self._database.now()
        statement = dialect.insert(workers).values(id=owner, beat_at=now)
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_={"beat_at": statement.excluded.beat_at})
        )

    async def leave(self, owner: str) -> None:
        await self._connection.execute(delete(workers).where(workers.c.id == owner))

    async def forget_all(self) -> None:
        await self._connection.execute(delete(workers))

    async def orphans(self, lease_seconds: float) -> list[Lease]:
        dead = workers.c.beat_at < self._database.now(timedelta(seconds=lease_seconds))
        query = (
            select(replies)
            .outerjoin(workers, workers.c.id == replies.c.owner)
            .where(replies.c.status == ReplyStatus.STREAMING.value, or_(workers.c.id.is_(None), dead))
            .order_by(replies.c.id)
            .with_for_update(skip_locked=True, of=replies)
        )
        rows = (await self._connection.execute(query)).all()
        return [
            lease_from(row, row.attempt, row.owner or "", await last_seq(self._connection, row.id) + 1) for row in rows
        ]

    async def requeue(self, lease: Lease) -> None:
        await self._connection.execute(
            update(replies)
            .where(
                replies.c.id == lease.reply_id,
                replies.c.attempt == lease.attempt,
                replies.c.status == ReplyStatus.STREAMING.value,
            )
            .values(status=ReplyStatus.QUEUED.value, owner=None, rescues=replies.c.rescues + 1)
        )
        change = LoggedEvent(lease.next_seq, lease.attempt, StatusChanged(ReplyStatus.QUEUED))
        await append_events(self._connection, [event_to_row(lease.reply_id, change)])
