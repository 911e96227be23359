"""Conversations: rows <-> values, and keyset pages by latest activity."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.conversations import Conversation, GenerationSettings, ModelParams, Page, PageRequest, TitleSource
from domain.errors import InvalidInput
from persistence.tables import conversations


def settings_to_json(settings: GenerationSettings) -> dict[str, Any]:
    """Only what is set, so that a level that says nothing stays silent."""
    params = {name: value for name, value in asdict(settings.params).items() if value is not None}
    given = {"model": settings.model, "system_prompt": settings.system_prompt, "params": params}
    return {name: value for name, value in given.items() if value is not None and value != {}}


def settings_from_json(data: Mapping[str, Any]) -> GenerationSettings:
    params = dict(data.get("params", {}))
    if "stop" in params:
        params["stop"] = tuple(params["stop"])
    return GenerationSettings(data.get("model"), data.get("system_prompt"), ModelParams(**params))


def conversation_from(row: Row[Any]) -> Conversation:
    return Conversation(
        id=row.id,
        user_id=row.user_id,
        title=row.title,
        title_source=TitleSource(row.title_source),
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_activity_at=row.last_activity_at,
        settings=settings_from_json(row.settings),
        metadata=row.metadata,
        leaf_id=row.leaf_id,
    )


class SqlConversations:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, conversation: Conversation) -> None:
        await self._connection.execute(
            insert(conversations).values(
                id=conversation.id,
                user_id=conversation.user_id,
                created_at=conversation.created_at,
                metadata=dict(conversation.metadata),
                **_changing(conversation),
            )
        )

    async def get(self, user_id: str, conversation_id: str, *, lock: bool = False) -> Conversation | None:
        query = _visible(user_id).where(conversations.c.id == conversation_id)
        if lock:
            query = query.with_for_update()
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else conversation_from(row)

    async def page(self, user_id: str, request: PageRequest) -> Page[Conversation]:
        key = tuple_(conversations.c.last_activity_at, conversations.c.id)
        query = _visible(user_id)
        if request.after is not None:
            query = query.where(key < _position(request.after))
        if request.before is not None:
            query = query.where(key > _position(request.before))
        columns = (conversations.c.last_activity_at, conversations.c.id)
        newest_first = request.first is not None
        query = query.order_by(*(c.desc() if newest_first else c.asc() for c in columns)).limit(request.size + 1)
        rows = (await self._connection.execute(query)).all()
        items = [conversation_from(row) for row in rows[: request.size]]
        more = len(rows) > request.size
        if newest_first:
            return Page(tuple(items), has_next=more, has_previous=request.after is not None)
        return Page(tuple(reversed(items)), has_next=request.before is not None, has_previous=more)

    async def count(self, user_id: str) -> int:
        query = select(func.count()).select_from(_visible(user_id).subquery())
        return int((await self._connection.execute(query)).scalar_one())

    async def update(self, conversation: Conversation) -> None:
        await self._connection.execute(
            update(conversations).where(conversations.c.id == conversation.id).values(**_changing(conversation))
        )

    async def delete(self, conversation_id: str, at: datetime) -> None:
        await self._connection.execute(
            update(conversations).where(conversations.c.id == conversation_id).values(deleted_at=at)
        )

    async def purge(self, deleted_before: datetime) -> int:
        gone = await self._connection.execute(delete(conversations).where(conversations.c.deleted_at < deleted_before))
        return gone.rowcount


def _changing(conversation: Conversation) -> dict[str, Any]:
    return {
        "title": conversation.title,
        "title_source": conversation.title_source.value,
        "updated_at": conversation.updated_at,
        "last_activity_at": conversation.last_activity_at,
        "settings": settings_to_json(conversation.settings),
        "leaf_id": conversation.leaf_id,
    }


def _visible(user_id: str) -> Select[Any]:
    return select(conversations).where(conversations.c.user_id == user_id, conversations.c.deleted_at.is_(None))


def _position(cursor: str) -> tuple[datetime, str]:
    """The keyset position that `Conversation.cursor` wrote."""
    instant, _, conversation_id = cursor.partition("|")
    try:
        return datetime.fromisoformat(instant), conversation_id
    except ValueError as error:
        raise InvalidInput("This is not a cursor of a conversation list; pass an `endCursor` as it came.") from error
