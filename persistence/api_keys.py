"""API keys: rows and values. Expiry goes by the clock that all processes share. A key is stored as its hash alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, delete, insert, or_, select, update

from domain.accounts import ApiKey
from persistence.connection import AnyRow, Connection, listed, shared_clock
from persistence.tables import PRESENT, api_keys, users


class SqlApiKeys:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, key: ApiKey, key_hash: str) -> None:
        await self._connection.execute(
            insert(api_keys).values(
                id=key.id,
                user_id=key.user_id,
                name=key.name,
                prefix=key.prefix,
                hash=key_hash,
                created_at=key.created_at,
                last_used_at=key.last_used_at,
                expires_at=key.expires_at,
            )
        )

    async def of_user(self, user_id: str) -> list[ApiKey]:
        query = _present(api_keys).where(api_keys.c.user_id == user_id)
        rows = (
            await self._connection.execute(query.order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()))
        ).all()
        return [_key_from(row) for row in rows]

    async def by_hash(self, key_hash: str) -> ApiKey | None:
        given = {"of_hash": key_hash} | self._connection.our_clock()
        rows = await self._connection.fetch(_BY_HASH[self._connection.is_sqlite], given)
        return _key_from(rows[0]) if rows else None

    async def alive(self, key_ids: Sequence[str]) -> set[str]:
        given = {"ids": key_ids} | self._connection.our_clock()
        return {row.id for row in await self._connection.fetch(_ALIVE[self._connection.is_sqlite], given)}

    async def touch(self, key_id: str, at: datetime) -> None:
        await self._connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at))

    async def revoke(self, user_id: str, key_id: str) -> bool:
        theirs = (api_keys.c.user_id == user_id) & (api_keys.c.id == key_id)
        return (await self._connection.execute(delete(api_keys).where(theirs))).rowcount == 1


def _present(*what: Any) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  tables and columns
    return select(*what).join(users, users.c.id == api_keys.c.user_id).where(PRESENT)


def _usable(*what: Any, is_sqlite: bool) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  tables and columns
    later = api_keys.c.expires_at > shared_clock(is_sqlite=is_sqlite)
    return _present(*what).where(or_(api_keys.c.expires_at.is_(None), later))


def _alive(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    """Asked before every operation of a socket, so it is made once."""
    return _usable(api_keys.c.id, is_sqlite=is_sqlite).where(listed(api_keys.c.id, "ids", is_sqlite=is_sqlite))


def _by_hash(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    return _usable(api_keys, is_sqlite=is_sqlite).where(api_keys.c.hash == bindparam("of_hash"))


_ALIVE = {is_sqlite: _alive(is_sqlite=is_sqlite) for is_sqlite in (True, False)}
_BY_HASH = {is_sqlite: _by_hash(is_sqlite=is_sqlite) for is_sqlite in (True, False)}


def _key_from(row: AnyRow) -> ApiKey:
    return ApiKey(row.id, row.user_id, row.name, row.prefix, row.created_at, row.last_used_at, row.expires_at)
