"""Users: rows and values, from their creation until nothing of them is left.

A user who is deleted keeps a row without an address or name until a purge has removed what they owned. Nothing here
knows how users show who they are.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, or_, select, update

from domain.account_storage import Account
from domain.accounts import User
from domain.ports import Clock
from persistence.connection import AnyRow, Connection
from persistence.conversations import hold
from persistence.sessions import remove_sessions
from persistence.tables import LIVE, PRESENT, api_keys, conversations, replies, sessions, users

PURGE_AT_ONCE = datetime.fromtimestamp(0, UTC)
"""Conversations of deleted users bear this instant, so the next purge takes them, whatever it waits for else."""
OWNS = exists().where(conversations.c.user_id == users.c.id)
SPENDS = exists().where(replies.c.user_id == users.c.id, LIVE)
"""A live reply whose conversation was given away may still be counted as theirs."""
CLEARED: dict[str, None] = dict.fromkeys(("display_name", "email", "password_hash", "issuer", "subject"))


class SqlUsers:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def get(self, user_id: str) -> User | None:
        return _user(await self._one(users.c.id == user_id))

    async def by_email(self, email: str) -> Account | None:
        return _account(await self._one(users.c.email == email))

    async def account(self, user_id: str, *, lock: bool = False) -> Account | None:
        query = _present().where(users.c.id == user_id)
        if lock:
            query = query.with_for_update(key_share=True)
        return _account((await self._connection.execute(query)).one_or_none())

    async def page(self, after: str | None, limit: int) -> list[User]:
        query = _present() if after is None else _present().where(users.c.id > after)
        rows = (await self._connection.execute(query.order_by(users.c.id).limit(limit))).all()
        return [_user_from(row) for row in rows]

    async def add(self, user: User, password_hash: str | None) -> bool:
        added = await self._connection.execute(
            self._connection.insert(users)
            .values(
                id=user.id,
                display_name=user.display_name,
                created_at=user.created_at,
                email=user.email,
                password_hash=password_hash,
                issuer=user.issuer,
                subject=user.subject,
            )
            .on_conflict_do_nothing()
        )
        return added.rowcount == 1

    async def by_subject(self, issuer: str, subject: str) -> User | None:
        return _user(await self._one(users.c.issuer == issuer, users.c.subject == subject))

    async def set_password(self, user_id: str, password_hash: str) -> None:
        await self._connection.execute(
            update(users).where(users.c.id == user_id, PRESENT).values(password_hash=password_hash)
        )

    async def delete(self, user_id: str) -> None:
        """The user's row comes after the conversations, see `persistence/feed.py`, and before the sessions, as where a
        password is changed."""
        await self._give_up(conversations.c.user_id == user_id)
        gone = {"deleted_at": self._clock.now(), **CLEARED}
        await self._connection.execute(update(users).where(users.c.id == user_id).values(gone))
        await remove_sessions(self._connection, sessions.c.user_id == user_id)
        await self._connection.execute(delete(api_keys).where(api_keys.c.user_id == user_id))

    async def purge(self) -> int:
        """Conversations that were begun while their user was deleted are given up first."""
        deleted = await self._ids(select(users.c.id).where(users.c.deleted_at.is_not(None)))
        if not deleted:
            return 0
        theirs = self._connection.among(conversations.c.user_id, deleted)
        await self._give_up(theirs & conversations.c.deleted_at.is_distinct_from(PURGE_AT_ONCE))
        left = self._connection.among(users.c.id, deleted) & ~or_(OWNS, SPENDS)
        held = await self._ids(select(users.c.id).where(left).with_for_update(skip_locked=True))
        gone = delete(users).where(self._connection.among(users.c.id, held), ~or_(OWNS, SPENDS))
        return (await self._connection.execute(gone)).rowcount

    async def _give_up(self, which: ColumnElement[bool]) -> None:
        await hold(self._connection, which)
        await self._connection.execute(update(conversations).where(which).values(deleted_at=PURGE_AT_ONCE))

    async def _ids(self, query: Select[*tuple[Any, ...]]) -> list[str]:
        return list((await self._connection.execute(query)).scalars())

    async def _one(self, *which: ColumnElement[bool]) -> AnyRow | None:
        return (await self._connection.execute(_present().where(*which))).one_or_none()


def _present() -> Select[*tuple[Any, ...]]:
    return select(users).where(PRESENT)


def _user(row: AnyRow | None) -> User | None:
    return None if row is None else _user_from(row)


def _account(row: AnyRow | None) -> Account | None:
    return None if row is None else Account(_user_from(row), row.password_hash)


def _user_from(row: AnyRow) -> User:
    return User(row.id, row.display_name, row.created_at, row.email, row.issuer, row.subject)
