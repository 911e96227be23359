"""The ends of replies as they are stored: on PostgreSQL all of a flush in one statement, on SQLite deferred ones.

Whether an end may be stored is decided elsewhere: replies and conversations are held by the caller, and so are their
calls of tools. Nothing here knows why a reply ended.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Boolean, Insert, Integer, Text, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql

from domain.replies import Outcome, Usage
from domain.storage import FlushEntry
from persistence.connection import Connection, listed, unnested
from persistence.events import EventRow, append_events, event_arrays, event_rows, parts_to_json
from persistence.feed import TELLING, SqlFeed
from persistence.tables import Id, Instant, Json, conversations, messages, replies, reply_attempts, reply_events

Ended = tuple[FlushEntry, Outcome]
PREFIX = "ended_"
_ENDED: dict[str, Any] = {
    "status": Text(),
    "finish_reason": Text(),
    "error_code": Text(),
    "error_message": Text(),
    "error_retryable": Boolean(),
    "error_retry_after_ms": Integer(),
    "finished_at": Instant(),
    "last_seq": Integer(),
    "owner": Id(),
    "first_token_at": Instant(),
    "response_model": Text(),
    "completion_id": Text(),
    "request_id": Text(),
}
"""Columns of replies that are replaced."""
_SPENT: dict[str, Any] = {
    "attempt": Integer(),
    "ended_at": Instant(),
    "input_tokens": Integer(),
    "output_tokens": Integer(),
    "cached_input_tokens": Integer(),
    "reasoning_tokens": Integer(),
    "estimated": Boolean(),
}
"""Columns of reply_attempts, beside the reply."""
_OTHERS: dict[str, Any] = {"reply_id": Id(), "asked": Integer(), "folded": Json, "token_count": Integer()}
_GIVEN = _OTHERS | _ENDED | _SPENT


async def store_ends(
    connection: Connection, feed: SqlFeed | None, events: Sequence[EventRow], ended: Sequence[Ended], at: datetime
) -> None:
    """Store them with the events that tell of them. With a feed what it remembers is told too: then this is the end."""
    rows = [_row(entry, outcome, at) for entry, outcome in ended]
    talks = {"talks": sorted({entry.lease.conversation_id for entry, _ in ended}), "at": at}
    if not connection.is_sqlite:
        arrays = {PREFIX + name: [row[name] for row in rows] for name in _GIVEN}
        told = await (feed or SqlFeed(connection)).told()
        await connection.send(_together(), arrays | talks | told | event_arrays(events))
        return
    await append_events(connection, events)
    for statement in _one_by_one():
        await connection.send_each(statement, [{PREFIX + name: value for name, value in row.items()} for row in rows])
    await connection.send(_touching(is_sqlite=True), talks)


def _row(entry: FlushEntry, outcome: Outcome, at: datetime) -> dict[str, Any]:
    return {
        "reply_id": entry.lease.reply_id,
        "asked": outcome.requests,
        "folded": parts_to_json(entry.parts),
        "token_count": outcome.token_count,
        "first_token_at": outcome.first_token_at,
        "response_model": outcome.response_model,
        "completion_id": outcome.completion_id,
        "request_id": outcome.request_id,
        **settled(outcome, at, entry.events[-1].seq),
        **spent(entry.lease.attempt, outcome.usage, at),
    }


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


def spent(attempt: int, usage: Usage, at: datetime) -> dict[str, Any]:
    """The columns of an attempt, beside the reply."""
    return {
        "attempt": attempt,
        "ended_at": at,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated,
    }


@cache
def _together() -> Insert:
    given = unnested("given", PREFIX, **_GIVEN)
    ended = select(*given.c).cte("ended")
    mine = ended.c.reply_id
    logged = postgresql.insert(reply_events).from_select(list(reply_events.c), select(*event_rows().c))
    attempts = select(mine, *(ended.c[name] for name in _SPENT))
    values = {name: ended.c[name] for name in _ENDED}
    fold = update(messages).where(messages.c.id == mine)
    end = update(replies).where(replies.c.id == mine)
    return TELLING.add_cte(
        logged.on_conflict_do_nothing().cte("logged"),
        insert(reply_attempts).from_select(["reply_id", *_SPENT], attempts).cte("attempts"),
        fold.values(parts=ended.c.folded, token_count=ended.c.token_count).cte("folded"),
        end.values(requests=replies.c.requests + ended.c.asked, **values).cte("settled"),
        _touching(is_sqlite=False).cte("touched"),
    )


@cache
def _one_by_one() -> tuple[Any, ...]:
    """SQLite's, each for one reply."""
    given: dict[str, Any] = {name: bindparam(PREFIX + name, type_=kind) for name, kind in _GIVEN.items()}
    mine, asked = given["reply_id"], given["asked"]
    fold = update(messages).where(messages.c.id == mine)
    end = update(replies).where(replies.c.id == mine)
    return (
        insert(reply_attempts).values({"reply_id": mine} | {name: given[name] for name in _SPENT}),
        fold.values(parts=given["folded"], token_count=given["token_count"]),
        end.values(requests=replies.c.requests + asked, **{name: given[name] for name in _ENDED}),
    )


@cache
def _touching(*, is_sqlite: bool) -> Any:  # noqa: ANN401  a statement
    at = bindparam("at", type_=Instant)
    talks = listed(conversations.c.id, "talks", is_sqlite=is_sqlite)
    return update(conversations).where(talks).values(last_activity_at=at, updated_at=at)
