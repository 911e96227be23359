"""Messages: some by their ids, pages of paths and of all, and what a prompt is made of.

What is read of each is in `persistence/message_rows.py`, the walks along the tree in `persistence/paths.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, literal, or_, select

from domain.conversations import Message, Page, PageRequest
from domain.errors import InvalidInput
from persistence.connection import Connection, Parameters, listed
from persistence.events import parts_to_json
from persistence.message_rows import message_from, with_reply
from persistence.paging import page_of, window
from persistence.paths import adding, between, is_on_path, newest_above, newest_with
from persistence.tables import Id, conversations, messages

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
        query = _page(is_sqlite=self._connection.is_sqlite, forward=forward, after=after, before=before)
        bounds = {"size": request.size, "after": request.after, "before": request.before}
        given = {name: value for name, value in bounds.items() if value is not None}
        return page_of(await self._load(query, where | given), request)

    async def newest(self, message_id: str, token_budget: int, overhead: int) -> list[Message]:
        query = _newest(is_sqlite=self._connection.is_sqlite)
        return await self._load(query, {"message_id": message_id, "token_budget": token_budget, "overhead": overhead})

    async def weight(self, parent_id: str | None, tokens: int, token_budget: int, overhead: int) -> int:
        cost = tokens + overhead if tokens else 0
        if parent_id is None:
            return cost
        given = {"parent_id": parent_id, "own_cost": cost, "token_budget": token_budget, "overhead": overhead}
        ((weight,),) = await self._connection.fetch(_WEIGHT, given)
        return int(weight)

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
        query = with_reply(is_sqlite=self._connection.is_sqlite).where(theirs)
        query = window(query, request, [messages.c.id], lambda cursor: (cursor,))
        return page_of([message_from(row) for row in (await self._connection.execute(query)).all()], request)

    async def _is_there(self, query: Select[*tuple[Any, ...]], given: Parameters | None = None) -> bool:
        return (await self._connection.execute(query, given)).first() is not None

    async def _load(self, query: Select[*tuple[Any, ...]], given: Mapping[str, Any]) -> list[Message]:
        return [message_from(row) for row in await self._connection.fetch(query, given)]


def _is_of(user_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Of messages. Not a join: SQLite would take that for a reason to look through all that the user has."""
    owner = select(conversations.c.user_id).where(
        conversations.c.id == messages.c.conversation_id, conversations.c.deleted_at.is_(None)
    )
    return owner.scalar_subquery() == user_id


def _not_a_cursor() -> InvalidInput:
    return InvalidInput("This is not a cursor of this message list; pass a cursor as it came.")


@cache
def _newest(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    above = newest_above()
    return with_reply(is_sqlite=is_sqlite).join(above, above.c.id == messages.c.id).order_by(above.c.n.desc())


@cache
def _page(*, is_sqlite: bool, forward: bool, after: bool, before: bool) -> Select[*tuple[Any, ...]]:
    walk = between(forward=forward, after=after, before=before)
    query = with_reply(is_sqlite=is_sqlite).join(walk, walk.c.id == messages.c.id)
    return query.order_by(walk.c.n.desc() if forward else walk.c.n)


@cache
def _named(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    return with_reply(is_sqlite=is_sqlite).where(listed(messages.c.id, "ids", is_sqlite=is_sqlite))


@cache
def _owned(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    return _named(is_sqlite=is_sqlite).where(_is_of(bindparam("user_id", type_=Id)))


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
