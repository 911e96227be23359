"""What is read of a message, and how it becomes one: a row has its reply, the usage of that, and a live reply's log.

All of it comes from one statement, so that a message's parts and its cursor never disagree. Which messages are read is
decided elsewhere.
"""

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import JSON, ScalarSelect, Select, func, select

from domain.conversations import Message, Role
from domain.errors import ReplyErrorCode
from domain.events import Folder
from domain.replies import FinishReason, Reply, ReplyError, ReplyStatus, Usage
from persistence.conversations import settings_from_json
from persistence.events import event_from, parts_from_json
from persistence.tables import messages, replies, reply_attempts, reply_events

PREFIX = "reply__"


@cache
def with_reply(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    """Messages as `message_from` takes them."""
    reply = [column.label(PREFIX + column.name) for column in replies.c]
    more = (_usage(is_sqlite=is_sqlite).label("usage"), _live_log(is_sqlite=is_sqlite).label("log"))
    return select(messages, *reply, *more).outerjoin(replies, replies.c.id == messages.c.id)


def message_from(row: Any) -> Message:  # noqa: ANN401  a row of `with_reply`
    reply = None if row.reply__id is None else _reply_from(row)
    folder = _folded(row.log) if reply is not None and reply.last_seq is None else None
    return Message(
        id=row.id,
        conversation_id=row.conversation_id,
        parent_id=row.parent_id,
        role=Role(row.role),
        created_at=row.created_at,
        parts=parts_from_json(row.parts) if folder is None else folder.parts(),
        token_count=row.token_count,
        metadata=row.metadata,
        idempotency_key=row.idempotency_key,
        reply=reply,
        cursor=folder.seq if folder is not None else (reply.last_seq if reply else None),
    )


def _reply_from(row: Any) -> Reply:  # noqa: ANN401  a row
    return Reply(
        id=row.reply__id,
        conversation_id=row.reply__conversation_id,
        status=ReplyStatus(row.reply__status),
        settings=settings_from_json(row.reply__settings),
        instruction=row.reply__instruction,
        behind_id=row.reply__behind_id,
        attempt=row.reply__attempt,
        rescues=row.reply__rescues,
        requests=row.reply__requests,
        stop_requested=row.reply__stop_requested,
        queued_at=row.reply__queued_at,
        started_at=row.reply__started_at,
        first_token_at=row.reply__first_token_at,
        finished_at=row.reply__finished_at,
        finish_reason=None if row.reply__finish_reason is None else FinishReason(row.reply__finish_reason),
        error=_error_from(row),
        response_model=row.reply__response_model,
        completion_id=row.reply__completion_id,
        request_id=row.reply__request_id,
        last_seq=row.reply__last_seq,
        usage=_added_up(row.usage),
    )


def _error_from(row: Any) -> ReplyError | None:  # noqa: ANN401  a row
    if row.reply__error_code is None:
        return None
    code, text = ReplyErrorCode(row.reply__error_code), row.reply__error_message
    return ReplyError(code, text, row.reply__error_retryable, row.reply__error_retry_after_ms)


# ── what is read of other tables: one value for each row, as JSON ──


class _Logged(NamedTuple):
    seq: int
    attempt: int
    kind: str
    part: int | None
    text: str | None
    data: Any


def _usage(*, is_sqlite: bool) -> ScalarSelect[Any]:
    """Of each attempt that has ended."""
    columns = reply_attempts.c
    spent = (columns.input_tokens, columns.output_tokens, columns.cached_input_tokens, columns.reasoning_tokens)
    each = _array_of_all(*spent, columns.estimated, is_sqlite=is_sqlite)
    return each.where(columns.reply_id == replies.c.id).scalar_subquery()


def _live_log(*, is_sqlite: bool) -> ScalarSelect[Any]:
    """All events of a reply that is not settled, in any order."""
    *plain, data = (reply_events.c[name] for name in _Logged._fields)
    each = _array_of_all(*plain, func.json(data) if is_sqlite else data, is_sqlite=is_sqlite)
    return each.where(reply_events.c.reply_id == replies.c.id, replies.c.last_seq.is_(None)).scalar_subquery()


def _array_of_all(*columns: Any, is_sqlite: bool) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  any expression
    if is_sqlite:
        return select(func.json_group_array(func.json_array(*columns), type_=JSON)).correlate(replies)
    return select(func.json_agg(func.json_build_array(*columns), type_=JSON)).correlate(replies)


def _added_up(attempts: list[list[Any]] | None) -> Usage | None:
    """PostgreSQL gives null for none, SQLite an empty array."""
    usages = [Usage(i, o, c, r, bool(estimated)) for i, o, c, r, estimated in attempts or ()]
    return sum(usages[1:], usages[0]) if usages else None


def _folded(log: list[list[Any]] | None) -> Folder:
    folder = Folder()
    for event in sorted(log or ()):
        folder.add(event_from(_Logged._make(event)))
    return folder
