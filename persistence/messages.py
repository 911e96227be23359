"""Messages: rows <-> values, and pages of them.

What a live reply has so far is folded from its log here, in the same snapshot as its status, so that a message's
parts and its cursor never disagree. The walks along the tree are in `persistence/paths.py`.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, literal, or_, select

from domain.conversations import Message, Page, PageRequest, Role
from domain.errors import InvalidInput
from domain.events import Folder
from domain.replies import ReplyStatus, Usage
from persistence.connection import AnyRow, Connection, Parameters, listed
from persistence.events import events_of, parts_from_json, parts_to_json
from persistence.paging import page_of, window
from persistence.paths import adding, between, is_on_path, newest_above, newest_with
from persistence.replies import reply_from, usage_of
from persistence.tables import Id, conversations, messages, replies

REPLY_PREFIX = "reply__"
_ADD = adding()
_IS_ON_PATH = is_on_path()


_WEIGHT = select(func.max(newest_with().c.total))


class SqlMessages:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, *added: Message) -> None:
        await self._connection.execute(_ADD, [_row_from(message) for message in added])

    async def get(self, user_id: str, message_id: str) -> Message | None:
        return (await self.get_many(user_id, [message_id])).get(message_id)

    async def get_many(self, user_id: str, message_ids: Sequence[str]) -> dict[str, Message]:
        query = _owned(is_sqlite=self._connection.is_sqlite)
        return {m.id: m for m in await self._load(query, {"ids": list(message_ids), "user_id": user_id})}

    async def watched(self, message_ids: Collection[str]) -> dict[str, Message]:
        query = _named(is_sqlite=self._connection.is_sqlite)
        return {m.id: m for m in await self._load(query, {"ids": list(message_ids)})}

    async def path(self, conversation_id: str, leaf_id: str, request: PageRequest) -> Page[Message]:
        where = {"conversation_id": conversation_id, "leaf_id": leaf_id}
        for cursor in (request.after, request.before):
            if cursor is not None and not await self._is_there(_IS_ON_PATH, where | {"cursor": cursor}):
                raise _not_a_cursor()
        forward, after, before = request.first is not None, request.after is not None, request.before is not None
        walk = between(forward=forward, after=after, before=before)
        query = _WITH_REPLY.join(walk, walk.c.id == messages.c.id)
        query = query.order_by(walk.c.n.desc() if forward else walk.c.n)
        bounds = {"size": request.size, "after": request.after, "before": request.before}
        given = {name: value for name, value in bounds.items() if value is not None}
        return page_of(await self._load(query, where | given), request)

    async def newest(self, message_id: str, token_budget: int, overhead: int) -> list[Message]:
        return await self._load(_NEWEST, {"message_id": message_id, "token_budget": token_budget, "overhead": overhead})

    async def weight(self, parent_id: str | None, tokens: int, token_budget: int, overhead: int) -> int:
        cost = tokens + overhead if tokens else 0
        if parent_id is None:
            return cost
        given = {"parent_id": parent_id, "own_cost": cost, "token_budget": token_budget, "overhead": overhead}
        return int((await self._connection.execute(_WEIGHT, given)).scalar_one())

    async def children(self, keys: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], list[str]]:
        found: dict[tuple[str, str | None], list[str]] = {key: [] for key in keys}
        parents = [parent for _, parent in keys if parent is not None]
        roots = [conversation for conversation, parent in keys if parent is None]
        under = [self._connection.among(messages.c.parent_id, parents)] if parents else []
        among_roots = self._connection.among(messages.c.conversation_id, roots)
        without = [and_(messages.c.parent_id.is_(None), among_roots)] if roots else []
        query = select(messages.c.conversation_id, messages.c.parent_id, messages.c.id).where(or_(*under, *without))
        for row in (await self._connection.execute(query.order_by(messages.c.id))).all():
            key = (row.conversation_id, row.parent_id)
            if key in found:
                found[key].append(row.id)
        return found

    async def all(self, conversation_id: str, request: PageRequest) -> Page[Message]:
        theirs = messages.c.conversation_id == conversation_id
        for cursor in (request.after, request.before):
            if cursor is not None and not await self._is_there(
                select(literal(1)).where(theirs, messages.c.id == cursor)
            ):
                raise _not_a_cursor()
        query = window(_WITH_REPLY.where(theirs), request, [messages.c.id], lambda cursor: (cursor,))
        return page_of(await self._load(query), request)

    async def _is_there(self, query: Select[*tuple[Any, ...]], given: Parameters | None = None) -> bool:
        return (await self._connection.execute(query, given)).first() is not None

    async def _load(self, query: Select[*tuple[Any, ...]], given: Parameters | None = None) -> list[Message]:
        rows = (await self._connection.execute(query, given)).all()
        made = [row.id for row in rows if row.reply__id is not None and _has_ended_once(row)]
        usage = await usage_of(self._connection, made)
        live = [row.id for row in rows if row.reply__id is not None and row.reply__last_seq is None]
        folders: dict[str, Folder] = {reply_id: Folder() for reply_id in live}
        for reply_id, logged in await events_of(self._connection, live):
            folders[reply_id].add(logged)
        return [_message_from(row, usage.get(row.id), folders.get(row.id)) for row in rows]


def _has_ended_once(row: AnyRow) -> bool:
    """Whether an attempt at the reply may have ended, and cost something."""
    return bool(row.reply__attempt > (row.reply__status == ReplyStatus.STREAMING.value))


def _is_of(user_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Of messages. Not a join: SQLite would take that for a reason to look through all that the user has."""
    owner = select(conversations.c.user_id).where(
        conversations.c.id == messages.c.conversation_id, conversations.c.deleted_at.is_(None)
    )
    return owner.scalar_subquery() == user_id


def _not_a_cursor() -> InvalidInput:
    return InvalidInput("This is not a cursor of this message list; pass a cursor as it came.")


def _with_reply() -> Select[*tuple[Any, ...]]:
    reply_columns = [column.label(REPLY_PREFIX + column.name) for column in replies.c]
    return select(messages, *reply_columns).outerjoin(replies, replies.c.id == messages.c.id)


_WITH_REPLY = _with_reply()
_ABOVE = newest_above()
_NEWEST = _WITH_REPLY.join(_ABOVE, _ABOVE.c.id == messages.c.id).order_by(_ABOVE.c.n.desc())


@cache
def _named(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    return _WITH_REPLY.where(listed(messages.c.id, "ids", is_sqlite=is_sqlite))


@cache
def _owned(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    return _named(is_sqlite=is_sqlite).where(_is_of(bindparam("user_id", type_=Id)))


def _message_from(row: AnyRow, usage: Usage | None, folder: Folder | None) -> Message:
    reply = None if row.reply__id is None else reply_from(row, REPLY_PREFIX, usage)
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


def _row_from(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "parent_id": message.parent_id,
        "parent": message.parent_id,
        "role": message.role.value,
        "created_at": message.created_at,
        "parts": parts_to_json(message.parts),
        "token_count": message.token_count,
        "metadata": dict(message.metadata),
        "idempotency_key": message.idempotency_key,
    }
