"""Sessions and their refresh tokens: rows and values.

Locks are taken session first, its tokens second, several sessions in the order of their ids; a sweep leaves out what
others hold. Expiry goes by the clock that all processes share. Nothing here knows what a token looks like.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, insert, select, update

from domain.account_storage import RefreshToken
from domain.accounts import Session
from persistence.connection import AnyRow, Connection, listed, shared_clock
from persistence.tables import PRESENT, refresh_tokens, sessions, users


class SqlSessions:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, session: Session, token_hash: str) -> None:
        await self._connection.execute(
            insert(sessions).values(
                id=session.id,
                user_id=session.user_id,
                user_agent=session.user_agent,
                created_at=session.created_at,
                last_seen_at=session.last_seen_at,
                expires_at=session.expires_at,
            )
        )
        await self._add_token(session.id, token_hash, session.expires_at)

    async def of_user(self, user_id: str) -> list[Session]:
        query = self._usable(sessions).where(sessions.c.user_id == user_id)
        newest_first = query.order_by(sessions.c.last_seen_at.desc(), sessions.c.id.desc())
        return [_session_from(row) for row in (await self._connection.execute(newest_first)).all()]

    async def alive(self, session_ids: Sequence[str]) -> set[str]:
        given = {"ids": session_ids} | self._connection.our_clock()
        return {row.id for row in await self._connection.fetch(_ALIVE[self._connection.is_sqlite], given)}

    async def by_token(self, token_hash: str) -> RefreshToken | None:
        """The token is read after its session is held: what another use of it wrote meanwhile is seen."""
        token = select(refresh_tokens).where(refresh_tokens.c.hash == token_hash)
        token = token.where(refresh_tokens.c.expires_at > self._connection.now())
        of_token = token.with_only_columns(refresh_tokens.c.session_id).scalar_subquery()
        held = self._usable(sessions).where(sessions.c.id == of_token).with_for_update(of=sessions)
        session = (await self._connection.execute(held)).one_or_none()
        if session is None:
            return None
        row = (await self._connection.execute(token)).one_or_none()
        return None if row is None else RefreshToken(row.hash, _session_from(session), row.used_at)

    async def rotate(self, used: RefreshToken, token_hash: str, at: datetime, expires_at: datetime) -> None:
        session_id = used.session.id
        first_use = update(refresh_tokens).where(refresh_tokens.c.hash == used.hash, refresh_tokens.c.used_at.is_(None))
        await self._connection.execute(first_use.values(used_at=at))
        await self._add_token(session_id, token_hash, expires_at)
        seen = update(sessions).where(sessions.c.id == session_id)
        await self._connection.execute(seen.values(last_seen_at=at, expires_at=expires_at))

    async def revoke(self, user_id: str, session_id: str) -> bool:
        theirs = (sessions.c.user_id == user_id) & (sessions.c.id == session_id)
        return (await self._connection.execute(delete(sessions).where(theirs))).rowcount == 1

    async def revoke_all(self, user_id: str) -> None:
        await remove_sessions(self._connection, sessions.c.user_id == user_id)

    async def sweep(self) -> None:
        now = self._connection.now()
        for table, key in ((sessions, sessions.c.id), (refresh_tokens, refresh_tokens.c.hash)):
            old = select(key).where(table.c.expires_at <= now).with_for_update(skip_locked=True)
            await self._connection.execute(delete(table).where(key.in_(old)))

    async def _add_token(self, session_id: str, token_hash: str, expires_at: datetime) -> None:
        await self._connection.execute(
            insert(refresh_tokens).values(hash=token_hash, session_id=session_id, expires_at=expires_at)
        )

    def _usable(self, *what: Any) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  tables and columns
        return _usable(self._connection.now(), *what)


def _usable(now: ColumnElement[datetime], *what: Any) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  tables and columns
    there = select(*what).join(users, users.c.id == sessions.c.user_id)
    return there.where(PRESENT, sessions.c.expires_at > now)


def _alive(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    """Asked before every operation of a socket, so it is made once."""
    return _usable(shared_clock(is_sqlite=is_sqlite), sessions.c.id).where(
        listed(sessions.c.id, "ids", is_sqlite=is_sqlite)
    )


_ALIVE = {is_sqlite: _alive(is_sqlite=is_sqlite) for is_sqlite in (True, False)}


async def remove_sessions(connection: Connection, which: ColumnElement[bool]) -> None:
    """With their tokens."""
    held = select(sessions.c.id).where(which).order_by(sessions.c.id).with_for_update()
    await connection.execute(held)
    await connection.execute(delete(sessions).where(which))


def _session_from(row: AnyRow) -> Session:
    return Session(row.id, row.user_id, row.user_agent, row.created_at, row.last_seen_at, row.expires_at)
