"""The reply log: fenced append, settling, reading after a cursor.

The append is the fence: the statement that checks the leases locks the reply rows (in the order of their ids) until
the transaction ends, so no takeover commits beside it. Nothing here knows who reads.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from domain.conversations import Change
from domain.events import LoggedEvent
from domain.ports import Clock, FlushEntry, FlushResult
from domain.replies import Lease, Outcome, ReplyStatus, Usage
from persistence.connection import AnyRow, Connection
from persistence.conversations import hold
from persistence.events import append_events, event_from, event_to_row, parts_to_json
from persistence.feed import SqlFeed
from persistence.tables import conversations, messages, replies, reply_attempts, reply_events

LIVE = (ReplyStatus.QUEUED.value, ReplyStatus.STREAMING.value)
SWEPT_AT_ONCE = 10_000
LOST = FlushResult(mine=False, stop_requested=False)


class SqlLog:
    def __init__(self, connection: Connection, clock: Clock, feed: SqlFeed) -> None:
        self._connection = connection
        self._clock = clock
        self._feed = feed

    async def flush(self, entries: Sequence[FlushEntry]) -> list[FlushResult]:
        found = await self._lock(entries)
        results = [_verdict(entry, found.get(entry.lease.reply_id)) for entry in entries]
        live = [
            entry
            for entry, result in zip(entries, results, strict=True)
            if result.mine and found[entry.lease.reply_id].last_seq is None
        ]
        rows = [event_to_row(entry.lease.reply_id, logged) for entry in live for logged in entry.events]
        await append_events(self._connection, rows)
        await self._settle([(entry, entry.outcome) for entry in live if entry.outcome is not None])
        return results

    async def after(self, reply_id: str, seq: int, limit: int) -> list[LoggedEvent]:
        query = select(reply_events).where(reply_events.c.reply_id == reply_id, reply_events.c.seq > seq)
        rows = (await self._connection.execute(query.order_by(reply_events.c.seq).limit(limit))).all()
        return [event_from(row) for row in rows]

    async def sweep(self, finished_before: datetime) -> int:
        ended = select(replies.c.id).where(~replies.c.swept, replies.c.finished_at < finished_before)
        query = ended.limit(SWEPT_AT_ONCE).with_for_update(key_share=True, skip_locked=True)
        ids = list((await self._connection.execute(query)).scalars())
        if not ids:
            return 0
        mine = self._connection.among(replies.c.id, ids)
        await self._connection.execute(update(replies).where(mine).values(swept=True))
        theirs = self._connection.among(reply_events.c.reply_id, ids)
        return (await self._connection.execute(delete(reply_events).where(theirs))).rowcount

    async def _lock(self, entries: Sequence[FlushEntry]) -> Mapping[str, AnyRow]:
        """The reply rows, locked; before them the conversations of those that end."""
        ending = {entry.lease.conversation_id for entry in entries if entry.outcome is not None}
        if ending:
            await hold(self._connection, self._connection.among(conversations.c.id, sorted(ending)))
        ids = [entry.lease.reply_id for entry in entries]
        query = select(*_CHECKED).where(self._connection.among(replies.c.id, ids)).order_by(replies.c.id)
        rows = (await self._connection.execute(query.with_for_update(key_share=True))).all()
        return {row.id: row for row in rows}

    async def _settle(self, ended: Sequence[tuple[FlushEntry, Outcome]]) -> None:
        if not ended:
            return
        at, execute = self._clock.now(), self._connection.execute
        await execute(insert(reply_attempts), [usage_row(entry.lease, outcome.usage, at) for entry, outcome in ended])
        await execute(_FOLD, [_message(entry, outcome) for entry, outcome in ended])
        await execute(_END, [_reply(entry, outcome, at) for entry, outcome in ended])
        touched = sorted({entry.lease.conversation_id for entry, _ in ended})
        which = self._connection.among(conversations.c.id, touched)
        await execute(update(conversations).where(which).values(last_activity_at=at, updated_at=at))
        for lease in (entry.lease for entry, _ in ended):
            self._feed.add(lease.user_id, Change.MESSAGE_UPDATED, lease.conversation_id, lease.reply_id)


_CHECKED = (
    *(replies.c.id, replies.c.attempt, replies.c.stop_requested),
    *(replies.c.status, replies.c.finish_reason, replies.c.error_code, replies.c.last_seq),
)
_FOLD = (
    update(messages)
    .where(messages.c.id == bindparam("message_id"))
    .values(parts=bindparam("folded"), token_count=bindparam("tokens"))
)
_END = (
    update(replies)
    .where(replies.c.id == bindparam("reply_id"))
    .values(requests=replies.c.requests + bindparam("asked"))
)


def settled(outcome: Outcome, at: datetime, last_seq: int) -> dict[str, Any]:
    """The columns of a reply that say that it has ended, and how."""
    error = outcome.error
    return {
        "status": outcome.status.value,
        "finish_reason": outcome.finish_reason.value,
        "error_code": error.code.value if error else None,
        "error_message": error.message if error else None,
        "error_retryable": error.retryable if error else None,
        "error_retry_after_ms": error.retry_after_ms if error else None,
        "finished_at": at,
        "last_seq": last_seq,
        "owner": None,
    }


def _reply(entry: FlushEntry, outcome: Outcome, at: datetime) -> dict[str, Any]:
    return {
        "reply_id": entry.lease.reply_id,
        "asked": outcome.requests,
        "first_token_at": outcome.first_token_at,
        "response_model": outcome.response_model,
        "completion_id": outcome.completion_id,
        "request_id": outcome.request_id,
        **settled(outcome, at, entry.events[-1].seq),
    }


def _message(entry: FlushEntry, outcome: Outcome) -> dict[str, Any]:
    return {
        "message_id": entry.lease.reply_id,
        "folded": parts_to_json(entry.parts),
        "tokens": outcome.token_count,
    }


def usage_row(lease: Lease, usage: Usage, at: datetime) -> dict[str, Any]:
    """The row of `reply_attempts` for an attempt that ended, however it did."""
    return {
        "reply_id": lease.reply_id,
        "attempt": lease.attempt,
        "ended_at": at,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated,
    }


def _verdict(entry: FlushEntry, row: AnyRow | None) -> FlushResult:
    """A settled reply is still mine when it was this very entry, sent before, that settled it."""
    if row is None or row.attempt != entry.lease.attempt:
        return LOST
    if row.status != ReplyStatus.STREAMING.value and not _settled_by(entry, row):
        return LOST
    return FlushResult(mine=True, stop_requested=row.stop_requested)


def _settled_by(entry: FlushEntry, row: AnyRow) -> bool:
    outcome = entry.outcome
    if outcome is None:
        return False
    error = None if outcome.error is None else outcome.error.code.value
    meant = (outcome.status.value, outcome.finish_reason.value, error, entry.events[-1].seq)
    return meant == (row.status, row.finish_reason, row.error_code, row.last_seq)
