"""How the end of an attempt is written: settled for good, handed over into the queue, or stopped while it waits there.

Whether the end may be written is decided elsewhere: the reply and its conversation are held by the caller.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, false, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from domain.events import Finished, LoggedEvent, StatusChanged, fold, untold
from domain.replies import FinishReason, HandOver, Lease, Outcome, ReplyStatus
from domain.spoken import calls_in
from domain.storage import FlushEntry
from persistence.connection import AnyRow, Connection
from persistence.events import EventRow, append_events, event_to_row, events_of, parts_to_json
from persistence.feed import SqlFeed
from persistence.settlement import settled, spent, store_ends
from persistence.tables import AWAITING, messages, replies, reply_attempts, tool_calls
from persistence.tool_calls import cancel_calls, stored_calls

STOPPED_IN_QUEUE = Outcome(ReplyStatus.STOPPED, FinishReason.STOPPED_BY_USER)
Ending = tuple[FlushEntry, Outcome | HandOver]


async def end_attempts(
    connection: Connection, feed: SqlFeed | None, events: Sequence[EventRow], endings: Sequence[Ending], at: datetime
) -> None:
    """Append the events, and store the ends of attempts that they tell of. For the feed see `store_ends`."""
    settled_now = [(entry, outcome) for entry, outcome in endings if isinstance(outcome, Outcome)]
    handed_over = [(entry, outcome) for entry, outcome in endings if isinstance(outcome, HandOver)]
    if handed_over or not settled_now:
        await append_events(connection, events)
        events = []
    for entry, outcome in handed_over:
        await _hand_over(connection, entry, outcome, at)
    if settled_now:
        await cancel_calls(connection, [entry.lease.reply_id for entry, _ in settled_now if calls_in(entry.parts)])
        await store_ends(connection, feed, events, settled_now, at)


async def rescued(
    connection: Connection, lease: Lease, ended: HandOver, at: datetime, events: Sequence[LoggedEvent]
) -> bool:
    """Back into the queue, with the events that say so. False when the lease was lost."""
    row = await _put_back(connection, lease, ended, at, rescues=1)
    if row is None:
        return False
    await append_events(connection, [event_to_row(lease.reply_id, event) for event in events])
    if row.stop_requested:
        await stop_in_queue(connection, row, at)
    return True


async def _hand_over(connection: Connection, entry: FlushEntry, ended: HandOver, at: datetime) -> None:
    """Readers were told that it awaits approval; they are told here when it does not, as all was decided meanwhile."""
    row = await _put_back(connection, entry.lease, ended, at, rescues=0)
    if row is None:
        return
    if row.stop_requested:
        await stop_in_queue(connection, row, at)
    elif ended.awaits_approval and row.status == ReplyStatus.QUEUED.value:
        last = entry.events[-1]
        queued = LoggedEvent(last.seq + 1, last.attempt, StatusChanged(ReplyStatus.QUEUED))
        await append_events(connection, [event_to_row(row.id, queued)])


async def _put_back(connection: Connection, lease: Lease, ended: HandOver, at: datetime, rescues: int) -> AnyRow | None:
    """As it stands in the queue now, or before it while calls await approval. None when the lease was lost."""
    row = (await connection.execute(_waiting_again(lease, ended, rescues))).one_or_none()
    if row is None:
        return None
    message = messages.c.id == lease.reply_id
    await connection.execute(update(messages).where(message).values(token_count=ended.token_count))
    attempt = {"reply_id": lease.reply_id, **spent(lease.attempt, ended.usage, at)}
    await connection.execute(insert(reply_attempts), [attempt])
    return row


async def stop_in_queue(connection: Connection, row: AnyRow, at: datetime) -> None:
    """Settle a reply that waits, with what an earlier attempt had shown of it.

    Those that waited for it now wait for what it waited for. Its conversation must be held: else a reply that is being
    added would wait for this one and so for nothing.
    """
    shown = [logged for _, logged in await events_of(connection, [row.id])]
    parts = fold(shown)
    waiting = [call.id for _, call in calls_in(parts) if not call.status.ended]
    stored = await stored_calls(connection, waiting) if waiting else {}
    events = (*untold(parts, stored), Finished(ReplyStatus.STOPPED))
    last = [LoggedEvent(seq, row.attempt, event) for seq, event in enumerate(events, len(shown) + 1)]
    await append_events(connection, [event_to_row(row.id, logged) for logged in last])
    await cancel_calls(connection, [row.id] if calls_in(parts) else [])
    folded = parts_to_json(fold(shown + last))
    await connection.execute(update(messages).where(messages.c.id == row.id).values(parts=folded))
    values = settled(STOPPED_IN_QUEUE, at, last[-1].seq)
    await connection.execute(update(replies).where(replies.c.id == row.id).values(stop_requested=True, **values))
    await connection.execute(update(replies).where(replies.c.behind_id == row.id).values(behind_id=row.behind_id))


def _waiting_again(lease: Lease, ended: HandOver, rescues: int) -> ReturningUpdate[tuple[Any, ...]]:
    """In the queue, with what is left of its reservation; or while calls await approval, with none."""
    streaming = replies.c.status == ReplyStatus.STREAMING.value
    put_back = update(replies).where(replies.c.id == lease.reply_id, replies.c.attempt == lease.attempt, streaming)
    left = replies.c.reserved_tokens - ended.usage.total_tokens
    awaits: ColumnElement[bool] = false()
    if ended.awaits_approval:
        awaits = select(tool_calls.c.id).where(tool_calls.c.reply_id == replies.c.id, AWAITING).exists()
    return put_back.values(
        status=case((awaits, ReplyStatus.AWAITING_APPROVAL.value), else_=ReplyStatus.QUEUED.value),
        owner=None,
        reserved_tokens=case((awaits, 0), (left > 0, left), else_=0),
        rescues=replies.c.rescues + rescues,
        requests=replies.c.requests + ended.requests,
    ).returning(replies)
