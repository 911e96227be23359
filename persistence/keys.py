"""Idempotency keys: of several equal requests at once, one does the work and the others read its result."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import and_, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ports import Clock, KnownKey
from persistence.tables import idempotency_keys


class SqlIdempotencyKeys:
    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def reserve(self, user_id: str, operation: str, key: str, fingerprint: str) -> KnownKey | None:
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        taken = await self._connection.execute(
            dialect.insert(idempotency_keys)
            .values(user_id=user_id, operation=operation, key=key, fingerprint=fingerprint, used_at=self._clock.now())
            .on_conflict_do_nothing()
        )
        if taken.rowcount == 1:
            return None
        query = select(idempotency_keys).where(
            idempotency_keys.c.user_id == user_id,
            idempotency_keys.c.operation == operation,
            idempotency_keys.c.key == key,
        )
        row = (await self._connection.execute(query)).one()
        return KnownKey(row.fingerprint, row.result)

    async def keep(self, user_id: str, operation: str, key: str, result: Mapping[str, str | None]) -> None:
        mine = and_(
            idempotency_keys.c.user_id == user_id,
            idempotency_keys.c.operation == operation,
            idempotency_keys.c.key == key,
        )
        await self._connection.execute(update(idempotency_keys).where(mine).values(result=dict(result)))

    async def sweep(self, used_before: datetime) -> int:
        gone = await self._connection.execute(delete(idempotency_keys).where(idempotency_keys.c.used_at < used_before))
        return gone.rowcount
