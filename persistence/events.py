"""Events and parts: rows and JSON <-> values, and the statements that read and append many of them.

Which events a reply may still get is decided elsewhere.
"""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, String, Text, bindparam, func, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

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
from persistence.connection import Connection, listed, unnested
from persistence.tables import Id, reply_events
from persistence.tool_calls_json import call_from_json, call_to_json

EventRow = tuple[str, int, int, str, int | None, str | None, Any]
"""In the order of the table's columns."""


def event_to_row(reply_id: str, logged: LoggedEvent) -> EventRow:
    return (reply_id, logged.seq, logged.attempt, *_columns_of(logged.event))


def _columns_of(event: ReplyEvent) -> tuple[str, int | None, str | None, Any]:  # noqa: PLR0911  one for each kind
    """Kind, part, text and data."""
    match event:
        case TextDelta(index, text):
            return "text", index, text, None
        case ArgumentsDelta(index, text):
            return "arguments", index, text, None
        case PartAdded(index, kind, call):
            return "part", index, kind.value, None if call is None else call_to_json(call)
        case ToolCallChanged(index, call):
            return "call", index, None, call_to_json(call)
        case StatusChanged(status):
            return "status", None, status.value, None
        case Retrying(attempt, delay_ms):
            return "retry", None, None, {"attempt": attempt, "delay_ms": delay_ms}
        case Finished(status):
            return "finished", None, status.value, None


def event_from(row: Any) -> LoggedEvent:  # noqa: ANN401  of the table, or with the same names
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


@cache
def _whole_logs(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    query = select(reply_events).where(listed(reply_events.c.reply_id, "ids", is_sqlite=is_sqlite))
    return query.order_by(reply_events.c.reply_id, reply_events.c.seq)


async def events_of(connection: Connection, reply_ids: Sequence[str]) -> list[tuple[str, LoggedEvent]]:
    """The whole logs of several replies, in order."""
    if not reply_ids:
        return []
    query = _whole_logs(is_sqlite=connection.is_sqlite)
    rows = (await connection.execute(query, {"ids": list(reply_ids)})).all()
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
        await connection.send(_APPEND_JSON, {"rows": rows_to_json(rows)})
    else:
        await connection.send(_APPEND_ARRAYS, event_arrays(rows))


def rows_to_json(rows: Sequence[EventRow]) -> str:
    """For `row_columns`."""
    plain = [(*row[:-1], None if row[-1] is None else json.dumps(row[-1], ensure_ascii=False)) for row in rows]
    return json.dumps(plain, ensure_ascii=False)


def _plain(column: Column[Any]) -> TypeEngine[Any]:
    """What is bound as it is: ids that we have made need no look at each character."""
    return String() if isinstance(column.type, Id) else column.type


_NAMES = [column.name for column in reply_events.c]
PREFIX = "event_"


def event_rows() -> TableValuedAlias:
    """Many events, for PostgreSQL: each column is one array, see `event_arrays`."""
    return unnested("events", PREFIX, **{column.name: _plain(column) for column in reply_events.c})


def event_arrays(rows: Sequence[EventRow]) -> dict[str, Sequence[Any]]:
    columns = zip(*rows, strict=True) if rows else [()] * len(_NAMES)
    return {PREFIX + name: column for name, column in zip(_NAMES, columns, strict=True)}


def _append_arrays() -> postgresql.Insert:
    """One statement for any number of rows."""
    insert = postgresql.insert(reply_events).from_select(list(reply_events.c), select(*event_rows().c))
    return insert.on_conflict_do_nothing()


def row_columns() -> list[ColumnElement[Any]]:
    """The columns of many events in the one parameter `rows`, for SQLite."""
    rows = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
    return [func.json_extract(rows.c.value, f"$[{place}]") for place in range(len(_NAMES))]


def _append_json() -> sqlite.Insert:
    """One statement and one step of it for any number of rows: between two steps SQLite's thread waits its turn."""
    rows = select(*row_columns()).where(true())  # else SQLite takes ON CONFLICT for a condition of a join
    insert = sqlite.insert(reply_events).from_select(list(reply_events.c), rows)
    return insert.on_conflict_do_nothing()


_APPEND_ARRAYS = _append_arrays()
_APPEND_JSON = _append_json()
