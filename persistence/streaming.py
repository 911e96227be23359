"""The reply log: fenced append, settling, reading after a cursor.

The append is the fence: the statement that checks the leases locks the reply rows (in the order of their ids) until
the transaction ends, so no takeover commits beside it. Nothing here knows who reads.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.conversations import MessagePart, PartKind
from domain.events import Finished, LoggedEvent, PartAdded, ReplyEvent, Retrying, StatusChanged, TextDelta
from domain.ports import Clock, FlushEntry, FlushResult
from domain.replies import Outcome, ReplyStatus, Usage
from persistence.tables import conversations, messages, replies, reply_attempts, reply_events

LIVE = (ReplyStatus.QUEUED.value, ReplyStatus.STREAMING.value)


def event_to_row(reply_id: str, logged: LoggedEvent) -> dict[str, Any]:
    row: dict[str, Any] = {"reply_id": reply_id, "seq": logged.seq, "attempt": logged.attempt}
    row |= {"part": None, "text": None, "data": None}
    match logged.event:
        case TextDelta(index, text):
            return row | {"kind": "text", "part": index, "text": text}
        case PartAdded(index, kind):
            return row | {"kind": "part", "part": index, "text": kind.value}
        case StatusChanged(status):
            return row | {"kind": "status", "text": status.value}
        case Retrying(attempt, delay_ms):
            return row | {"kind": "retry", "data": {"attempt": attempt, "delay_ms": delay_ms}}
        case Finished(status):
            return row | {"kind": "finished", "text": status.value}


def event_from(row: Row[Any]) -> LoggedEvent:
    event: ReplyEvent
    match row.kind:
        case "text":
            event = TextDelta(row.part, row.text)
        case "part":
            event = PartAdded(row.part, PartKind(row.text))
        case "status":
            event = StatusChanged(ReplyStatus(row.text))
        case "retry":
            event = Retrying(row.data["attempt"], row.data["delay_ms"])
        case _:
            event = Finished(ReplyStatus(row.text))
    return LoggedEvent(row.seq, row.attempt, event)


async def events_of(connection: AsyncConnection, reply_ids: Sequence[str]) -> list[tuple[str, LoggedEvent]]:
    """The whole logs of several replies, in order."""
    if not reply_ids:
        return []
    query = select(reply_events).where(reply_events.c.reply_id.in_(reply_ids))
    rows = (await connection.execute(query.order_by(reply_events.c.reply_id, reply_events.c.seq))).all()
    return [(row.reply_id, event_from(row)) for row in rows]


async def append_events(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Append; a row that is already there was written by an earlier try of the same flush and stays."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    await connection.execute(dialect.insert(reply_events).on_conflict_do_nothing(), list(rows))


async def record_usage(connection: AsyncConnection, reply_id: str, attempt: int, usage: Usage, at: datetime) -> None:
    await connection.execute(
        insert(reply_attempts).values(
            reply_id=reply_id,
            attempt=attempt,
            ended_at=at,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            estimated=usage.estimated,
        )
    )


class SqlLog:
    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def flush(self, entries: Sequence[FlushEntry]) -> list[FlushResult]:
        locked = await self._lock(sorted(entry.lease.reply_id for entry in entries))
        results = [_verdict(entry, locked.get(entry.lease.reply_id)) for entry in entries]
        rows: list[dict[str, Any]] = []
        for entry, result in zip(entries, results, strict=True):
            row = locked.get(entry.lease.reply_id)
            if not result.mine or row is None or row.status != ReplyStatus.STREAMING.value:
                continue
            rows += [event_to_row(entry.lease.reply_id, logged) for logged in entry.events]
        await append_events(self._connection, rows)
        for entry, result in zip(entries, results, strict=True):
            row = locked.get(entry.lease.reply_id)
            if result.mine and entry.outcome is not None and row is not None and row.last_seq is None:
                await self._settle(entry, entry.outcome)
        return results

    async def after(self, reply_id: str, seq: int, limit: int) -> list[LoggedEvent]:
        query = select(reply_events).where(reply_events.c.reply_id == reply_id, reply_events.c.seq > seq)
        rows = (await self._connection.execute(query.order_by(reply_events.c.seq).limit(limit))).all()
        return [event_from(row) for row in rows]

    async def sweep(self, finished_before: datetime) -> int:
        ended = select(replies.c.id).where(replies.c.finished_at < finished_before)
        gone = await self._connection.execute(delete(reply_events).where(reply_events.c.reply_id.in_(ended)))
        return gone.rowcount

    async def _lock(self, reply_ids: Sequence[str]) -> dict[str, Row[Any]]:
        query = (
            select(replies.c.id, replies.c.attempt, replies.c.status, replies.c.stop_requested, replies.c.last_seq)
            .where(replies.c.id.in_(reply_ids))
            .order_by(replies.c.id)
            .with_for_update(key_share=True)
        )
        return {row.id: row for row in (await self._connection.execute(query)).all()}

    async def _settle(self, entry: FlushEntry, outcome: Outcome) -> None:
        lease, at = entry.lease, self._clock.now()
        await record_usage(self._connection, lease.reply_id, lease.attempt, outcome.usage, at)
        await self._connection.execute(
            update(messages)
            .where(messages.c.id == lease.reply_id)
            .values(parts=parts_to_json(entry.parts), token_count=outcome.token_count)
        )
        await self._connection.execute(
            update(replies)
            .where(replies.c.id == lease.reply_id)
            .values(
                requests=replies.c.requests + outcome.requests,
                first_token_at=outcome.first_token_at,
                response_model=outcome.response_model,
                completion_id=outcome.completion_id,
                request_id=outcome.request_id,
                **settled(outcome, at, entry.events[-1].seq),
            )
        )
        await self._connection.execute(
            update(conversations)
            .where(conversations.c.id == lease.conversation_id)
            .values(last_activity_at=at, updated_at=at)
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


def parts_to_json(parts: Sequence[MessagePart]) -> list[dict[str, Any]]:
    return [
        {"kind": part.kind.value, "text": part.text}
        | ({} if part.duration_ms is None else {"duration_ms": part.duration_ms})
        for part in parts
    ]


def parts_from_json(data: Sequence[dict[str, Any]]) -> tuple[MessagePart, ...]:
    return tuple(
        MessagePart(index, PartKind(part["kind"]), part["text"], part.get("duration_ms"))
        for index, part in enumerate(data)
    )


def _verdict(entry: FlushEntry, row: Row[Any] | None) -> FlushResult:
    """A settled reply is still mine when it was this very entry, sent before, that settled it."""
    if row is None or row.attempt != entry.lease.attempt:
        return FlushResult(mine=False, stop_requested=False)
    settled_by_me = entry.outcome is not None and entry.events and row.last_seq == entry.events[-1].seq
    mine = row.status == ReplyStatus.STREAMING.value or bool(settled_by_me)
    return FlushResult(mine=mine, stop_requested=row.stop_requested)
