"""Idempotency keys: of several equal requests at once, one does the work and the others read its result."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, and_, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from domain.ports import Clock
from domain.storage import KnownKey
from persistence.connection import Connection
from persistence.tables import idempotency_keys


class SqlIdempotencyKeys:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def reserve(self, user_id: str, operation: str, key: str, fingerprint: str) -> KnownKey | None:
        """The insert waits for whoever holds the key; whether that one committed decides which of the two it was."""
        new = {"user_id": user_id, "operation": operation, "key": key, "fingerprint": fingerprint}
        taken = await self._connection.execute(_TAKE[self._connection.is_sqlite], new | {"used_at": self._clock.now()})
        if taken.rowcount == 1:
            return None
        query = select(idempotency_keys).where(_is(user_id, operation, key))
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:  # swept in this very moment
            return await self.reserve(user_id, operation, key, fingerprint)
        return KnownKey(row.fingerprint, row.result)

    async def keep(self, user_id: str, operation: str, key: str, result: Mapping[str, str | None]) -> None:
        which = {"of_user": user_id, "of_operation": operation, "of_key": key}
        await self._connection.execute(_KEEP, which | {"kept": dict(result)})

    async def sweep(self, used_before: datetime) -> int:
        gone = await self._connection.execute(delete(idempotency_keys).where(idempotency_keys.c.used_at < used_before))
        return gone.rowcount


def _is(user_id: str, operation: str, key: str) -> ColumnElement[bool]:
    columns = idempotency_keys.c
    return and_(columns.user_id == user_id, columns.operation == operation, columns.key == key)


_TAKE = {
    is_sqlite: insert(idempotency_keys)
    .values({name: bindparam(name) for name in ("user_id", "operation", "key", "fingerprint", "used_at")})
    .on_conflict_do_nothing()
    for is_sqlite, insert in ((True, sqlite.insert), (False, postgresql.insert))
}
_KEEP = (
    update(idempotency_keys)
    .where(
        idempotency_keys.c.user_id == bindparam("of_user"),
        idempotency_keys.c.operation == bindparam("of_operation"),
        idempotency_keys.c.key == bindparam("of_key"),
    )
    .values(result=bindparam("kept"))
)
