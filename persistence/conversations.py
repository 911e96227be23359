"""Conversations: rows <-> values, and pages by latest activity.

Locks are taken conversation first, its replies second, their tool calls third, everywhere, and several of a kind in
the order of their ids: so no two transactions ever wait for each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, delete, func, insert, select, update

from domain.conversations import (
    NO_PARAMS,
    Conversation,
    GenerationSettings,
    ModelParams,
    Page,
    PageRequest,
    TitleSource,
)
from domain.errors import InvalidInput
from domain.tool_calls import ToolChoice
from persistence.connection import AnyRow, Connection
from persistence.feed import SqlFeed
from persistence.paging import page_of, window
from persistence.tables import Id, conversations

PURGED_AT_ONCE = 200
"""So that a sweep of many conversations does not hold up everybody else's writes."""


_PARAMS = tuple(field.name for field in fields(ModelParams))


def settings_to_json(settings: GenerationSettings) -> dict[str, Any]:
    """Only what is set, so that a level that says nothing stays silent."""
    params = {name: value for name in _PARAMS if (value := getattr(settings.params, name)) is not None}
    given = {
        "model": settings.model,
        "system_prompt": settings.system_prompt,
        "params": params,
        "tools": None if settings.tools is None else list(settings.tools),
        "tool_choice": settings.tool_choice and settings.tool_choice.value,
    }
    return {name: value for name, value in given.items() if value is not None and value != {}}


def settings_from_json(data: Mapping[str, Any]) -> GenerationSettings:
    given = data.get
    params, tools, choice = given("params"), given("tools"), given("tool_choice")
    return GenerationSettings(
        model=given("model"),
        system_prompt=given("system_prompt"),
        params=_params_from(params) if params else NO_PARAMS,
        tools=None if tools is None else tuple(tools),
        tool_choice=None if choice is None else ToolChoice(choice),
    )


def _params_from(data: Mapping[str, Any]) -> ModelParams:
    stop = {"stop": tuple(data["stop"])} if "stop" in data else {}
    return ModelParams(**{**data, **stop})


def conversation_from(row: AnyRow) -> Conversation:
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


async def hold(connection: Connection, which: ColumnElement[bool]) -> None:
    """Lock conversations until the end of the unit, in the order of their ids."""
    query = select(conversations.c.id).where(which).order_by(conversations.c.id)
    await connection.execute(query.with_for_update(key_share=True))


class SqlConversations:
    def __init__(self, connection: Connection, feed: SqlFeed) -> None:
        self._connection = connection
        self._feed = feed

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
        which = {"user_id": user_id, "conversation_id": conversation_id}
        rows = await self._connection.fetch(_HELD if lock else _ONE, which)
        return conversation_from(rows[0]) if rows else None

    async def get_many(self, user_id: str, conversation_ids: Sequence[str]) -> dict[str, Conversation]:
        query = _visible(user_id).where(self._connection.among(conversations.c.id, conversation_ids))
        return {row.id: conversation_from(row) for row in (await self._connection.execute(query)).all()}

    async def page(self, user_id: str, request: PageRequest) -> Page[Conversation]:
        key = (conversations.c.last_activity_at, conversations.c.id)
        query = window(_visible(user_id), request, key, _position, descending=True)
        rows = (await self._connection.execute(query)).all()
        return page_of([conversation_from(row) for row in rows], request)

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

    async def give(self, from_user_id: str, to_user_id: str) -> int:
        theirs = conversations.c.user_id == from_user_id
        await hold(self._connection, theirs)
        given = await self._connection.execute(update(conversations).where(theirs).values(user_id=to_user_id))
        if given.rowcount:
            self._feed.skip(from_user_id)
            self._feed.skip(to_user_id)
        return given.rowcount

    async def purge(self, deleted_before: datetime) -> int:
        query = select(conversations.c.id).where(conversations.c.deleted_at < deleted_before).limit(PURGED_AT_ONCE)
        ids = list((await self._connection.execute(query.with_for_update(skip_locked=True))).scalars())
        if not ids:
            return 0
        await self._connection.execute(delete(conversations).where(self._connection.among(conversations.c.id, ids)))
        return len(ids)


def _changing(conversation: Conversation) -> dict[str, Any]:
    return {
        "title": conversation.title,
        "title_source": conversation.title_source.value,
        "updated_at": conversation.updated_at,
        "last_activity_at": conversation.last_activity_at,
        "settings": settings_to_json(conversation.settings),
        "leaf_id": conversation.leaf_id,
    }


def _visible(user_id: str | BindParameter[str]) -> Select[*tuple[Any, ...]]:
    return select(conversations).where(conversations.c.user_id == user_id, conversations.c.deleted_at.is_(None))


_ONE = _visible(bindparam("user_id", type_=Id)).where(conversations.c.id == bindparam("conversation_id", type_=Id))
_HELD = _ONE.with_for_update(key_share=True)


def _position(cursor: str) -> tuple[datetime, str]:
    """The keyset position that `Conversation.cursor` wrote."""
    instant, _, conversation_id = cursor.partition("|")
    try:
        return datetime.fromisoformat(instant).astimezone(UTC), conversation_id
    except (ValueError, OverflowError) as error:
        raise InvalidInput("This is not a cursor of a conversation list; pass an `endCursor` as it came.") from error
