"""Events and parts: rows and JSON <-> values, and the statements that read and append many of them.

Which events a reply may still get is decided elsewhere.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, bindparam, func, select
from sqlalchemy.dialects import postgresql

from domain.conversations import MessagePart, PartKind
from domain.events import (
    ArgumentsDelta,
    Finished,
    LoggedEvent,
    PartAdded,
    ReplyEvent,
    Retrying,
    StatusChanged,
    TextDelta,
    ToolCallChanged,
)
from domain.replies import ReplyStatus
from persistence.connection import AnyRow, Connection
from persistence.tables import reply_events
from persistence.tool_calls_json import call_from_json, call_to_json

EventRow = dict[str, Any]


def event_to_row(reply_id: str, logged: LoggedEvent) -> EventRow:
    row: EventRow = {"reply_id": reply_id, "seq": logged.seq, "attempt": logged.attempt}
    return row | {"part": None, "text": None, "data": None} | _columns_of(logged.event)


def _columns_of(event: ReplyEvent) -> EventRow:  # noqa: PLR0911  one for each kind
    match event:
        case TextDelta(index, text):
            return {"kind": "text", "part": index, "text": text}
        case ArgumentsDelta(index, text):
            return {"kind": "arguments", "part": index, "text": text}
        case PartAdded(index, kind, call):
            data = None if call is None else call_to_json(call)
            return {"kind": "part", "part": index, "text": kind.value, "data": data}
        case ToolCallChanged(index, call):
            return {"kind": "call", "part": index, "data": call_to_json(call)}
        case StatusChanged(status):
            return {"kind": "status", "text": status.value}
        case Retrying(attempt, delay_ms):
            return {"kind": "retry", "data": {"attempt": attempt, "delay_ms": delay_ms}}
        case Finished(status):
            return {"kind": "finished", "text": status.value}


def event_from(row: AnyRow) -> LoggedEvent:
    event: ReplyEvent
    match row.kind:
        case "text":
            event = TextDelta(row.part, row.text)
        case "arguments":
            event = ArgumentsDelta(row.part, row.text)
        case "part":
            event = PartAdded(row.part, PartKind(row.text), None if row.data is None else call_from_json(row.data))
        case "call":
            event = ToolCallChanged(row.part, call_from_json(row.data))
        case "status":
            event = StatusChanged(ReplyStatus(row.text))
        case "retry":
            event = Retrying(row.data["attempt"], row.data["delay_ms"])
        case _:
            event = Finished(ReplyStatus(row.text))
    return LoggedEvent(row.seq, row.attempt, event)


def parts_to_json(parts: Sequence[MessagePart]) -> list[dict[str, Any]]:
    return [
        {"kind": part.kind.value, "text": part.text}
        | ({} if part.duration_ms is None else {"duration_ms": part.duration_ms})
        | ({} if part.call is None else {"call": call_to_json(part.call)})
        for part in parts
    ]


def parts_from_json(data: Sequence[dict[str, Any]]) -> tuple[MessagePart, ...]:
    return tuple(_part_from(index, part) for index, part in enumerate(data))


def _part_from(index: int, part: dict[str, Any]) -> MessagePart:
    call = call_from_json(part["call"]) if "call" in part else None
    return MessagePart(index, PartKind(part["kind"]), part["text"], part.get("duration_ms"), call)


async def events_of(connection: Connection, reply_ids: Sequence[str]) -> list[tuple[str, LoggedEvent]]:
    """The whole logs of several replies, in order."""
    if not reply_ids:
        return []
    query = select(reply_events).where(connection.among(reply_events.c.reply_id, reply_ids))
    rows = (await connection.execute(query.order_by(reply_events.c.reply_id, reply_events.c.seq))).all()
    return [(row.reply_id, event_from(row)) for row in rows]


async def last_numbers(connection: Connection, reply_ids: Sequence[str]) -> dict[str, int]:
    """The number of each reply's last event; those without events are left out."""
    newest = func.max(reply_events.c.seq)
    query = select(reply_events.c.reply_id, newest).where(connection.among(reply_events.c.reply_id, reply_ids))
    return {row[0]: row[1] for row in (await connection.execute(query.group_by(reply_events.c.reply_id))).all()}


async def append_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Append; a row that is already there was written by an earlier try of the same flush and stays."""
    if not rows:
        return
    if connection.is_sqlite:
        await connection.execute(connection.insert(reply_events).on_conflict_do_nothing(), rows)
    else:
        await connection.execute(_APPEND_ARRAYS, arrays_of(rows))


EVENT_ARRAYS = [bindparam(column.name, type_=ARRAY(column.type)) for column in reply_events.c]
"""Each column of many events as one array, for PostgreSQL's unnest."""


def arrays_of(rows: Sequence[EventRow]) -> dict[str, list[Any]]:
    return {column.name: [row[column.name] for row in rows] for column in reply_events.c}


def _append_arrays() -> postgresql.Insert:
    """One statement for any number of rows."""
    rows = func.unnest(*EVENT_ARRAYS).table_valued(*(column.name for column in reply_events.c)).render_derived()
    insert = postgresql.insert(reply_events).from_select(list(reply_events.c), select(*rows.c))
    return insert.on_conflict_do_nothing()


_APPEND_ARRAYS = _append_arrays()
