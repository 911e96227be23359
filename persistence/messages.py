"""Messages: rows <-> values, and walks along the tree.

What a live reply has so far is folded from its log here, in the same snapshot as its status, so that a message's
parts and its cursor never disagree.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, Row, Select, and_, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.conversations import Message, Page, PageRequest, Role
from domain.errors import InvalidInput
from domain.events import Folder
from domain.replies import Reply, Usage
from persistence.replies import reply_from, usage_of
from persistence.streaming import events_of, parts_from_json, parts_to_json
from persistence.tables import conversations, messages, replies

REPLY_PREFIX = "reply__"


class SqlMessages:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, message: Message) -> None:
        await self._connection.execute(
            insert(messages).values(
                id=message.id,
                conversation_id=message.conversation_id,
                parent_id=message.parent_id,
                role=message.role.value,
                created_at=message.created_at,
                parts=parts_to_json(message.parts),
                token_count=message.token_count,
                metadata=dict(message.metadata),
                idempotency_key=message.idempotency_key,
            )
        )

    async def get(self, user_id: str, message_id: str) -> Message | None:
        return (await self.get_many(user_id, [message_id])).get(message_id)

    async def get_many(self, user_id: str, message_ids: Sequence[str]) -> dict[str, Message]:
        visible = and_(conversations.c.user_id == user_id, conversations.c.deleted_at.is_(None))
        query = _with_reply().join(conversations, conversations.c.id == messages.c.conversation_id).where(visible)
        return {m.id: m for m in await self._load(query.where(messages.c.id.in_(message_ids)))}

    async def watched(self, message_id: str) -> Message | None:
        """The message whoever asks, deleted or not: for a reader whose right was checked when the stream began."""
        found = await self._load(_with_reply().where(messages.c.id == message_id))
        return found[0] if found else None

    async def path(self, conversation_id: str, leaf_id: str, request: PageRequest) -> Page[Message]:
        for cursor in (request.after, request.before):
            if cursor is not None and not await self._exists(conversation_id, cursor):
                raise InvalidInput("This is not a cursor of this message list; pass a cursor as it came.")
        ids = await self._ids_upwards(leaf_id, request)
        more = len(ids) > request.size
        if request.first is not None:
            chosen = list(reversed(ids))[: request.size]
            page_flags = {"has_next": more, "has_previous": request.after is not None}
        else:
            chosen = list(reversed(ids[: request.size]))
            page_flags = {"has_next": request.before is not None, "has_previous": more}
        by_id = {m.id: m for m in await self._load(_with_reply().where(messages.c.id.in_(chosen)))}
        return Page(tuple(by_id[i] for i in chosen), **page_flags)

    async def newest(self, message_id: str, token_budget: int, overhead: int) -> list[Message]:
        above = select(messages.c.parent_id).where(messages.c.id == message_id).scalar_subquery()
        cost = messages.c.token_count + overhead
        walk = (
            select(messages.c.id, messages.c.parent_id, cost.label("total"))
            .where(messages.c.id == above)
            .cte("walk", recursive=True)
        )
        walk = walk.union_all(
            select(messages.c.id, messages.c.parent_id, (walk.c.total + cost).label("total"))
            .join(walk, messages.c.id == walk.c.parent_id)
            .where(walk.c.total + cost <= token_budget)
        )
        query = _with_reply().join(walk, walk.c.id == messages.c.id).order_by(walk.c.total.desc(), messages.c.id)
        return await self._load(query)

    async def children(self, keys: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], list[str]]:
        found: dict[tuple[str, str | None], list[str]] = {key: [] for key in keys}
        parents = [parent for _, parent in keys if parent is not None]
        roots = [conversation for conversation, parent in keys if parent is None]
        query = (
            select(messages.c.conversation_id, messages.c.parent_id, messages.c.id)
            .where(
                or_(
                    messages.c.parent_id.in_(parents),
                    and_(messages.c.parent_id.is_(None), messages.c.conversation_id.in_(roots)),
                )
            )
            .order_by(messages.c.id)
        )
        for conversation_id, parent_id, message_id in (await self._connection.execute(query)).all():
            found.setdefault((conversation_id, parent_id), []).append(message_id)
        return found

    async def all(self, conversation_id: str, request: PageRequest) -> Page[Message]:
        query = _with_reply().where(messages.c.conversation_id == conversation_id)
        if request.after is not None:
            query = query.where(messages.c.id > request.after)
        found = await self._load(query.order_by(messages.c.id).limit(request.size + 1))
        more = len(found) > request.size
        return Page(tuple(found[: request.size]), has_next=more, has_previous=request.after is not None)

    async def _exists(self, conversation_id: str, message_id: str) -> bool:
        query = select(literal(1)).where(messages.c.id == message_id, messages.c.conversation_id == conversation_id)
        return (await self._connection.execute(query)).first() is not None

    async def _ids_upwards(self, leaf_id: str, request: PageRequest) -> list[str]:
        """Ids from the newest end of the page upwards: one more than asked for where the walk can be cut short."""
        walk = _walk_up(leaf_id, request)
        query = select(walk.c.id).order_by(walk.c.n)
        return [row.id for row in (await self._connection.execute(query)).all()]

    async def _load(self, query: Select[Any]) -> list[Message]:
        rows = (await self._connection.execute(query)).all()
        made = [row.id for row in rows if row.reply__id is not None]
        usage = await usage_of(self._connection, made)
        live = [row.id for row in rows if row.reply__id is not None and row.reply__last_seq is None]
        folders: dict[str, Folder] = {reply_id: Folder() for reply_id in live}
        for reply_id, logged in await events_of(self._connection, live):
            folders[reply_id].add(logged)
        return [_message_from(row, usage.get(row.id), folders.get(row.id)) for row in rows]


def _walk_up(leaf_id: str, request: PageRequest) -> CTE:
    start = select(messages.c.id, messages.c.parent_id, literal(1).label("n"))
    if request.before is None:
        start = start.where(messages.c.id == leaf_id)
    else:
        above = select(messages.c.parent_id).where(messages.c.id == request.before).scalar_subquery()
        start = start.where(messages.c.id == above)
    if request.after is not None:
        start = start.where(messages.c.id != request.after)
    walk = start.cte("walk", recursive=True)
    step = select(messages.c.id, messages.c.parent_id, (walk.c.n + 1).label("n"))
    step = step.join(walk, messages.c.id == walk.c.parent_id)
    if request.last is not None:
        step = step.where(walk.c.n <= request.last)
    if request.after is not None:
        step = step.where(messages.c.id != request.after)
    return walk.union_all(step)


def _with_reply() -> Select[Any]:
    reply_columns = [column.label(REPLY_PREFIX + column.name) for column in replies.c]
    return select(messages, *reply_columns).outerjoin(replies, replies.c.id == messages.c.id)


def _message_from(row: Row[Any], usage: Usage | None, folder: Folder | None) -> Message:
    reply: Reply | None = None if row.reply__id is None else reply_from(row, REPLY_PREFIX, usage)
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
