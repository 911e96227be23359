"""API keys: rows and values. Expiry goes by the clock that all processes share. A key is stored as its hash alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, insert, or_, select, update

from domain.accounts import ApiKey
from persistence.connection import AnyRow, Connection
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
        query = self._usable(api_keys).where(api_keys.c.hash == key_hash)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else _key_from(row)

    async def alive(self, key_ids: Sequence[str]) -> set[str]:
        query = self._usable(api_keys.c.id).where(self._connection.among(api_keys.c.id, key_ids))
        return set((await self._connection.execute(query)).scalars())

    async def touch(self, key_id: str, at: datetime) -> None:
        await self._connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at))

    async def revoke(self, user_id: str, key_id: str) -> bool:
        theirs = (api_keys.c.user_id == user_id) & (api_keys.c.id == key_id)
        return (await self._connection.execute(delete(api_keys).where(theirs))).rowcount == 1

    def _usable(self, *what: Any) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  tables and columns
        later = api_keys.c.expires_at > self._connection.now()
        return _present(*what).where(or_(api_keys.c.expires_at.is_(None), later))


def _present(*what: Any) -> Select[*tuple[Any, ...]]:  # noqa: ANN401  tables and columns
    return select(*what).join(users, users.c.id == api_keys.c.user_id).where(PRESENT)


def _key_from(row: AnyRow) -> ApiKey:
    return ApiKey(row.id, row.user_id, row.name, row.prefix, row.created_at, row.last_used_at, row.expires_at)
