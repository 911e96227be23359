"""Replies: rows <-> values, queueing, claiming and stopping.

Locks are taken reply first, conversation second, as the journal's flush takes them.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import ReplyErrorCode
from domain.events import Finished, LoggedEvent, StatusChanged
from domain.ports import Clock
from domain.replies import (
    MOVES,
    FinishReason,
    Lease,
    Outcome,
    Progress,
    Reply,
    ReplyError,
    ReplyStatus,
    Usage,
)
from persistence.conversations import settings_from_json, settings_to_json
from persistence.streaming import LIVE, append_events, event_to_row, settled
from persistence.tables import conversations, messages, replies, reply_attempts, reply_events

STOPPED_IN_QUEUE = Outcome(ReplyStatus.STOPPED, FinishReason.STOPPED_BY_USER)


def reply_from(row: Row[Any], prefix: str, usage: Usage | None) -> Reply:
    """A reply from columns that are named with a prefix."""
    data = {column.name: row._mapping[prefix + column.name] for column in replies.c}
    error = None
    if data["error_code"] is not None:
        error = ReplyError(
            ReplyErrorCode(data["error_code"]),
            data["error_message"],
            data["error_retryable"],
            data["error_retry_after_ms"],
        )
    return Reply(
        status=ReplyStatus(data["status"]),
        settings=settings_from_json(data["settings"]),
        finish_reason=None if data["finish_reason"] is None else FinishReason(data["finish_reason"]),
        error=error,
        usage=usage,
        **{name: data[name] for name in _PLAIN},
    )


_PLAIN = ["id", "conversation_id", "instruction", "behind_id", "attempt", "rescues", "requests", "stop_requested", "queued_at", "started_at", "first_token_at", "finished_at", "response_model", "completion_id", "request_id", "last_seq"]


def lease_from(row: Row[Any], attempt: int, owner: str, next_seq: int) -> Lease:
    return Lease(
        reply_id=row.id,
        conversation_id=row.conversation_id,
        attempt=attempt,
        owner=owner,
        next_seq=next_seq,
        settings=settings_from_json(row.settings),
        instruction=row.instruction,
        rescues=row.rescues,
    )


async def usage_of(connection: AsyncConnection, reply_ids: Sequence[str]) -> dict[str, Usage]:
    """The usage of each reply, its attempts added up."""
    if not reply_ids:
        return {}
    query = select(reply_attempts).where(reply_attempts.c.reply_id.in_(reply_ids))
    total: dict[str, Usage] = {}
    for row in (await connection.execute(query)).all():
        usage = Usage(row.input_tokens, row.output_tokens, row.cached_input_tokens, row.reasoning_tokens, row.estimated)
        total[row.reply_id] = total[row.reply_id] + usage if row.reply_id in total else usage
    return total


async def last_seq(connection: AsyncConnection, reply_id: str) -> int:
    query = select(func.coalesce(func.max(reply_events.c.seq), 0)).where(reply_events.c.reply_id == reply_id)
    return int((await connection.execute(query)).scalar_one())


class SqlReplies:
    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def add(self, reply: Reply) -> None:
        await self._connection.execute(
            insert(replies).values(
                id=reply.id,
                conversation_id=reply.conversation_id,
                status=reply.status.value,
                settings=settings_to_json(reply.settings),
                instruction=reply.instruction,
                behind_id=reply.behind_id,
                attempt=reply.attempt,
                rescues=reply.rescues,
                requests=reply.requests,
                stop_requested=reply.stop_requested,
                queued_at=reply.queued_at,
            )
        )

    async def unsettled(self, conversation_id: str) -> list[str]:
        query = select(replies.c.id).where(replies.c.conversation_id == conversation_id, replies.c.status.in_(LIVE))
        return list((await self._connection.execute(query.order_by(replies.c.id))).scalars())

    async def queued(self) -> int:
        query = select(func.count()).select_from(replies).where(replies.c.status == ReplyStatus.QUEUED.value)
        return int((await self._connection.execute(query)).scalar_one())

    async def progress(self, reply_id: str) -> Progress | None:
        newest = select(func.max(reply_events.c.seq)).where(reply_events.c.reply_id == reply_id).scalar_subquery()
        query = select(replies.c.status, func.coalesce(replies.c.last_seq, newest, 0).label("seq"))
        row = (await self._connection.execute(query.where(_is(reply_id)))).one_or_none()
        return None if row is None else Progress(ReplyStatus(row.status), row.seq)

    async def waits_for(self, parent_id: str | None) -> str | None:
        if parent_id is None:
            return None
        at = messages.outerjoin(replies, replies.c.id == messages.c.id)
        start = select(messages.c.parent_id, replies.c.id.label("reply_id"), literal(1).label("n")).select_from(at)
        walk = start.where(messages.c.id == parent_id).cte("walk", recursive=True)
        step = select(messages.c.parent_id, replies.c.id.label("reply_id"), (walk.c.n + 1).label("n"))
        step = step.select_from(at.join(walk, messages.c.id == walk.c.parent_id)).where(walk.c.reply_id.is_(None))
        walk = walk.union_all(step)
        nearest = select(replies.c.id, replies.c.status, replies.c.behind_id).join(
            walk, walk.c.reply_id == replies.c.id
        )
        row = (await self._connection.execute(nearest)).first()
        if row is None:
            return None
        return str(row.id) if row.status in LIVE else row.behind_id

    async def request_stop(self, reply_id: str) -> ReplyStatus | None:
        query = select(replies).where(replies.c.id == reply_id).with_for_update()
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            return None
        status = ReplyStatus(row.status)
        if status is ReplyStatus.QUEUED:
            await self._settle_in_queue(row)
        elif ReplyStatus.STOPPED in MOVES[status]:
            await self._connection.execute(update(replies).where(_is(reply_id)).values(stop_requested=True))
        return status

    async def _settle_in_queue(self, row: Row[Any]) -> None:
        """Those that waited for this one now wait for what it waited for."""
        await self._connection.execute(
            select(conversations.c.id).where(conversations.c.id == row.conversation_id).with_for_update()
        )
        seq = await last_seq(self._connection, row.id) + 1
        finished = LoggedEvent(seq, row.attempt, Finished(ReplyStatus.STOPPED))
        await append_events(self._connection, [event_to_row(row.id, finished)])
        values = settled(STOPPED_IN_QUEUE, self._clock.now(), seq)
        await self._connection.execute(update(replies).where(_is(row.id)).values(stop_requested=True, **values))
        await self._connection.execute(
            update(replies).where(replies.c.behind_id == row.id).values(behind_id=row.behind_id)
        )

    async def claim(self, owner: str, limit: int) -> list[Lease]:
        ahead = replies.alias("ahead")
        blocked = select(literal(1)).where(ahead.c.id == replies.c.behind_id, ahead.c.status.in_(LIVE)).exists()
        query = (
            select(replies)
            .where(replies.c.status == ReplyStatus.QUEUED.value, or_(replies.c.behind_id.is_(None), ~blocked))
            .order_by(replies.c.queued_at, replies.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=replies)
        )
        return [await self._take(row, owner) for row in (await self._connection.execute(query)).all()]

    async def _take(self, row: Row[Any], owner: str) -> Lease:
        seq, attempt, now = await last_seq(self._connection, row.id) + 1, row.attempt + 1, self._clock.now()
        started = {"started_at": now} if row.started_at is None else {}
        await self._connection.execute(
            update(replies)
            .where(_is(row.id))
            .values(status=ReplyStatus.STREAMING.value, owner=owner, attempt=attempt, behind_id=None, **started)
        )
        change = LoggedEvent(seq, attempt, StatusChanged(ReplyStatus.STREAMING))
        await append_events(self._connection, [event_to_row(row.id, change)])
        return lease_from(row, attempt, owner, seq + 1)

    async def stop_flags(self, owner: str) -> list[str]:
        query = select(replies.c.id).where(
            replies.c.status == ReplyStatus.STREAMING.value, replies.c.owner == owner, replies.c.stop_requested
        )
        return list((await self._connection.execute(query)).scalars())


def _is(reply_id: str) -> ColumnElement[bool]:
    return replies.c.id == reply_id
