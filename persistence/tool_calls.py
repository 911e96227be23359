"""The calls of replies and the approvals of users: rows and values.

Locks are taken conversation first, then the reply, then its calls, of several in the order of their ids; whoever
writes for an owner locks that one's heartbeat instead of the first, see `persistence/fence.py`. Nothing here knows
tools.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, func, select, update

from domain.conversations import Change
from domain.events import LoggedEvent, ReplyEvent, StatusChanged, ToolCallChanged
from domain.replies import Lease, ReplyStatus
from domain.tool_calls import ToolCall, ToolCallStatus, cancelled
from domain.tool_storage import StoredCall
from persistence.connection import AnyRow, Connection
from persistence.conversations import hold
from persistence.events import append_events, event_to_row
from persistence.feed import SqlFeed
from persistence.fence import leases
from persistence.tables import (
    AWAITING,
    conversations,
    replies,
    reply_events,
    tool_approvals,
    tool_calls,
)
from persistence.tool_calls_json import call_from_json, call_to_json

OPEN = tuple(status.value for status in ToolCallStatus if not status.ended)


class SqlToolCalls:
    def __init__(self, connection: Connection, feed: SqlFeed) -> None:
        self._connection = connection
        self._feed = feed

    async def add(self, lease: Lease, calls: Sequence[tuple[int, ToolCall]]) -> bool:
        user_id = await self._user_of(lease)
        if user_id is None:
            return False
        rows = [_row(lease, index, call) for index, call in sorted(calls, key=lambda each: each[1].id)]
        if rows:
            added = self._connection.insert(tool_calls)
            changed = {name: added.excluded[name] for name in ("part", "attempt", "status", "expires_at", "data")}
            earlier = tool_calls.c.attempt < added.excluded.attempt
            upsert = added.on_conflict_do_update(index_elements=[tool_calls.c.id], set_=changed, where=earlier)
            await self._connection.execute(upsert, rows)
        for _, call in calls:
            if call.status is ToolCallStatus.AWAITING_APPROVAL:
                requested = Change.TOOL_APPROVAL_REQUESTED
                self._feed.add(user_id, requested, lease.conversation_id, lease.reply_id, call.id)
        return True

    async def finish(self, lease: Lease, call: ToolCall) -> bool:
        if await self._user_of(lease) is None:
            return False
        mine = (tool_calls.c.id == call.id, tool_calls.c.reply_id == lease.reply_id)
        running = (tool_calls.c.attempt == lease.attempt, tool_calls.c.status == ToolCallStatus.RUNNING.value)
        ended = await self._connection.execute(update(tool_calls).where(*mine, *running).values(_changing(call)))
        return ended.rowcount == 1

    async def of(self, reply_id: str) -> dict[str, ToolCall]:
        query = select(tool_calls.c.data).where(tool_calls.c.reply_id == reply_id).order_by(tool_calls.c.part)
        calls = [call_from_json(data) for data in (await self._connection.execute(query)).scalars()]
        return {call.id: call for call in calls}

    async def get(self, user_id: str, call_id: str) -> StoredCall | None:
        theirs = (conversations.c.user_id == user_id, conversations.c.deleted_at.is_(None))
        where = select(replies.c.conversation_id).join(tool_calls, tool_calls.c.reply_id == replies.c.id)
        conversation = where.where(tool_calls.c.id == call_id).scalar_subquery()
        await hold(self._connection, conversations.c.id == conversation)
        query = _stored().where(tool_calls.c.id == call_id, *theirs).with_for_update(key_share=True, of=replies)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else _stored_from(row)

    async def expired(self, limit: int) -> list[StoredCall]:
        """Nothing is waited for, so the order of the locks does not matter."""
        query = (
            _stored()
            .where(AWAITING, tool_calls.c.expires_at <= self._connection.now())
            .order_by(tool_calls.c.expires_at, tool_calls.c.id)
            .limit(limit)
            .with_for_update(key_share=True, skip_locked=True, of=[conversations, replies, tool_calls])
        )
        return [_stored_from(row) for row in (await self._connection.execute(query)).all()]

    async def decide(self, stored: StoredCall, call: ToolCall) -> None:
        await self._connection.execute(update(tool_calls).where(tool_calls.c.id == call.id).values(_changing(call)))
        if stored.reply_status is not ReplyStatus.AWAITING_APPROVAL:
            return
        reply = (await self._connection.execute(_AWAITING_REPLY, {"awaiting": stored.reply_id})).one()
        told: list[ReplyEvent] = [ToolCallChanged(stored.index, call)]
        if not reply.waits:
            told.append(StatusChanged(ReplyStatus.QUEUED))
            queued = update(replies).where(replies.c.id == stored.reply_id).values(status=ReplyStatus.QUEUED.value)
            await self._connection.execute(queued)
            self._feed.add(stored.user_id, Change.MESSAGE_UPDATED, stored.conversation_id, stored.reply_id)
        logged = [LoggedEvent(seq, reply.attempt, event) for seq, event in enumerate(told, reply.newest + 1)]
        await append_events(self._connection, [event_to_row(stored.reply_id, each) for each in logged])

    async def allowed(self, conversation_id: str) -> frozenset[str]:
        query = select(tool_approvals.c.tool).where(tool_approvals.c.conversation_id == conversation_id)
        return frozenset((await self._connection.execute(query)).scalars())

    async def allow(self, conversation_id: str, tool: str) -> None:
        allowing = self._connection.insert(tool_approvals).values(conversation_id=conversation_id, tool=tool)
        await self._connection.execute(allowing.on_conflict_do_nothing())

    async def _user_of(self, lease: Lease) -> str | None:
        """Whose conversation it is by now, with the owner's heartbeat locked; None when the lease was lost.

        The reply is locked too: its end, which comes from elsewhere when its generator was cancelled in this call,
        must find the calls that are there.
        """
        mine = leases().where(replies.c.id == lease.reply_id, replies.c.attempt == lease.attempt)
        query = mine.join(conversations, conversations.c.id == replies.c.conversation_id)
        query = query.with_only_columns(conversations.c.user_id, maintain_column_froms=True)
        query = query.with_for_update(key_share=True, of=replies)
        return (await self._connection.execute(query, {"owner": lease.owner})).scalar_one_or_none()


async def stored_calls(connection: Connection, call_ids: Sequence[str]) -> dict[str, ToolCall]:
    """Those that are stored, by id."""
    query = select(tool_calls.c.id, tool_calls.c.data).where(connection.among(tool_calls.c.id, call_ids))
    return {row.id: call_from_json(row.data) for row in (await connection.execute(query)).all()}


async def cancel_calls(connection: Connection, reply_ids: Sequence[str]) -> None:
    """Cancel what has not ended of the calls of replies that end, which are held."""
    if not reply_ids:
        return
    theirs = select(tool_calls.c.id, tool_calls.c.data).where(connection.among(tool_calls.c.reply_id, reply_ids))
    query = theirs.where(tool_calls.c.status.in_(OPEN)).order_by(tool_calls.c.id)
    rows = (await connection.execute(query.with_for_update(key_share=True))).all()
    if rows:
        ended = [{"call_id": row.id, **_changing(cancelled(call_from_json(row.data)))} for row in rows]
        await connection.execute(_CHANGE, ended)


def _stored() -> Select[*tuple[Any, ...]]:
    reply = (replies.c.conversation_id, replies.c.status.label("reply_status"), conversations.c.user_id)
    joined = tool_calls.join(replies, replies.c.id == tool_calls.c.reply_id)
    joined = joined.join(conversations, conversations.c.id == replies.c.conversation_id)
    return select(tool_calls.c.data, tool_calls.c.part, tool_calls.c.reply_id, *reply).select_from(joined)


def _stored_from(row: AnyRow) -> StoredCall:
    status = ReplyStatus(row.reply_status)
    return StoredCall(call_from_json(row.data), row.part, row.reply_id, row.conversation_id, row.user_id, status)


def _row(lease: Lease, index: int, call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "reply_id": lease.reply_id,
        "part": index,
        "attempt": lease.attempt,
        **_changing(call),
    }


def _changing(call: ToolCall) -> Mapping[str, Any]:
    expires_at = None if call.approval is None else call.approval.expires_at
    return {"status": call.status.value, "expires_at": expires_at, "data": call_to_json(call)}


def _awaiting_reply() -> Select[*tuple[Any, ...]]:
    """Of the reply `awaiting`: its attempt, the number of its newest event, and whether a call still waits."""
    newest = select(func.coalesce(func.max(reply_events.c.seq), 0)).where(reply_events.c.reply_id == replies.c.id)
    waits = select(tool_calls.c.id).where(tool_calls.c.reply_id == replies.c.id, AWAITING).exists()
    columns = (replies.c.attempt, newest.scalar_subquery().label("newest"), waits.label("waits"))
    return select(*columns).where(replies.c.id == bindparam("awaiting"))


_AWAITING_REPLY = _awaiting_reply()
_CHANGE = update(tool_calls).where(tool_calls.c.id == bindparam("call_id"))
