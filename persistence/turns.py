"""Turns: a message and its answer, their reply and what they change of the conversation, stored together.

On PostgreSQL that is one statement, which also tells the user of it where nothing went before, and so commits by
itself; otherwise that is told with the commit. On SQLite it is one for each row. Locks: see
`persistence/conversations.py`.
"""

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Insert, Select, Table, Update, bindparam, false, insert, literal_column, update

from domain.conversations import Conversation, Message
from domain.replies import Reply
from domain.storage import Turn
from persistence.connection import Connection
from persistence.conversations import settings_to_json
from persistence.events import parts_to_json
from persistence.feed import SqlFeed
from persistence.paths import Jump, jump_under, jump_under_new
from persistence.replies import unsettled_above
from persistence.tables import Id, conversations, messages, replies, reply_events

ABOVE = "above_id"


class SqlTurns:
    def __init__(self, connection: Connection, feed: SqlFeed) -> None:
        self._connection = connection
        self._feed = feed

    async def add(self, turn: Turn, reserved_tokens: int = 0, owner: str | None = None) -> None:
        parts = _Parts(turn.begins, turn.message is not None, owner is not None)
        rows = _rows(turn, reserved_tokens) | {"reply_owner": owner}
        if self._connection.is_sqlite:
            for statement in _one_by_one(parts):
                await self._connection.send(statement, rows)
        else:
            telling, told = await self._feed.telling()
            await self._connection.send(_together(parts, telling), rows | told)


class _Parts(NamedTuple):
    """What there is of a turn: a new conversation, a user's message, a reply that is claimed as it is stored."""

    begins: bool
    said: bool
    claimed: bool


@cache
def _together(parts: _Parts, last: Insert | Select[*tuple[Any, ...]]) -> Insert | Select[*tuple[Any, ...]]:
    """All as one, and what is told of it: PostgreSQL looks at foreign keys at the end of a statement."""
    return last.add_cte(*(each.cte(f"row_{number}") for number, each in enumerate(_one_by_one(parts))))


@cache
def _one_by_one(parts: _Parts) -> list[Insert | Update]:
    """In the order in which rows need each other."""
    beginning = _BEGINNING if parts.begins else _CHANGE
    reply = [_CLAIMED, _BEGUN] if parts.claimed else [_QUEUED]
    if not parts.said:
        return [beginning, _adding_message("answer", jump_under(_parent_of("answer"))), *reply]
    its = jump_under(_parent_of("said"))
    answer = _adding_message("answer", jump_under_new(_parent_of("answer"), its))
    return [beginning, _adding_message("said", its), answer, *reply]


def _adding(table: Table, prefix: str, columns: tuple[str, ...], **more: Any) -> Insert:  # noqa: ANN401  any expression
    given = {name: bindparam(f"{prefix}_{name}", type_=table.c[name].type) for name in columns}
    return insert(table).values(given | more)


def _adding_message(prefix: str, jump: Jump) -> Insert:
    return _adding(messages, prefix, _MESSAGE, jump_id=jump.end, jump_steps=jump.steps)


def _parent_of(prefix: str) -> BindParameter[str]:
    return bindparam(f"{prefix}_parent_id", type_=Id)


_CHANGING = ("title", "updated_at", "last_activity_at", "leaf_id")
_CONVERSATION = ("id", "user_id", "title_source", "created_at", "settings", "metadata", *_CHANGING)
_MESSAGE = (
    *("id", "conversation_id", "parent_id", "role", "created_at", "parts", "token_count", "metadata"),
    "idempotency_key",
)
_MADE = (
    *("id", "conversation_id", "status", "settings", "instruction", "attempt", "rescues", "requests"),
    *("stop_requested", "queued_at", "started_at", "owner", "user_id", "reserved_tokens"),
)
_BEGINNING = _adding(conversations, "talk", _CONVERSATION)
_CHANGE = (
    update(conversations)
    .where(conversations.c.id == bindparam("talk_id", type_=Id))
    .values({name: bindparam(f"talk_{name}", type_=conversations.c[name].type) for name in _CHANGING})
)
_UNSWEPT = {"swept": false()}
"""Beside others in a statement SQLAlchemy fills in no default."""
_CLAIMED = _adding(replies, "reply", _MADE, **_UNSWEPT)
_AHEAD = unsettled_above(bindparam(ABOVE, type_=Id)).limit(1).scalar_subquery()
_QUEUED = _adding(replies, "reply", _MADE, behind_id=_AHEAD, **_UNSWEPT)
_BEGUN = insert(reply_events).values(
    reply_id=bindparam("reply_id", type_=Id),
    seq=literal_column("1"),
    attempt=bindparam("reply_attempt", type_=replies.c.attempt.type),
    kind=literal_column("'status'"),
    text=bindparam("reply_status", type_=replies.c.status.type),
)


def _rows(turn: Turn, reserved_tokens: int) -> dict[str, Any]:
    """The values of all rows, each under the name of its kind and its column."""
    reply = turn.answer.reply
    assert reply is not None
    said = {} if turn.message is None else _message("said", turn.message)
    above = {ABOVE: (turn.message or turn.answer).parent_id}
    own = {"reply_user_id": turn.conversation.user_id, "reply_reserved_tokens": reserved_tokens}
    return _conversation(turn.conversation) | said | _message("answer", turn.answer) | _reply(reply) | own | above


def _conversation(conversation: Conversation) -> dict[str, Any]:
    row = {f"talk_{name}": getattr(conversation, name) for name in _CONVERSATION}
    row["talk_title_source"] = conversation.title_source.value
    row["talk_settings"] = settings_to_json(conversation.settings)
    row["talk_metadata"] = dict(conversation.metadata)
    return row


def _message(prefix: str, message: Message) -> dict[str, Any]:
    row = {f"{prefix}_{name}": getattr(message, name) for name in _MESSAGE}
    row[f"{prefix}_role"] = message.role.value
    row[f"{prefix}_parts"] = parts_to_json(message.parts)
    row[f"{prefix}_metadata"] = dict(message.metadata)
    return row


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "reply_id": reply.id,
        "reply_conversation_id": reply.conversation_id,
        "reply_status": reply.status.value,
        "reply_settings": settings_to_json(reply.settings),
        "reply_instruction": reply.instruction,
        "reply_attempt": reply.attempt,
        "reply_rescues": reply.rescues,
        "reply_requests": reply.requests,
        "reply_stop_requested": reply.stop_requested,
        "reply_queued_at": reply.queued_at,
        "reply_started_at": reply.started_at,
    }
