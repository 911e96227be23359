"""Idempotency keys: of several equal requests at once, one does the work and the others read its result."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from domain.ports import Clock
from domain.storage import KnownKey
from persistence.connection import Connection
from persistence.tables import Id, idempotency_keys


class SqlIdempotencyKeys:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def reserve(self, user_id: str, operation: str, key: str, fingerprint: str) -> KnownKey | None:
        """The insert waits for whoever holds the key; whether that one committed decides which of the two it was."""
        which = {"of_user": user_id, "of_operation": operation, "of_key": key}
        new = which | {"fingerprint": fingerprint, "used_at": self._clock.now()}
        if await self._connection.fetch(_TAKE[self._connection.is_sqlite], new):
            return None
        rows = await self._connection.fetch(_KNOWN, which)
        if not rows:  # swept in this very moment
            return await self.reserve(user_id, operation, key, fingerprint)
        return KnownKey(rows[0].fingerprint, rows[0].result)

    async def keep(self, user_id: str, operation: str, key: str, result: Mapping[str, str | None]) -> None:
        which = {"of_user": user_id, "of_operation": operation, "of_key": key}
        await self._connection.send(_KEEP, which | {"kept": dict(result)})

    async def sweep(self, used_before: datetime) -> int:
        gone = await self._connection.execute(delete(idempotency_keys).where(idempotency_keys.c.used_at < used_before))
        return gone.rowcount


_COLUMNS = idempotency_keys.c
_KEY = {
    _COLUMNS.user_id: bindparam("of_user", type_=Id),
    _COLUMNS.operation: bindparam("of_operation", type_=_COLUMNS.operation.type),
    _COLUMNS.key: bindparam("of_key", type_=_COLUMNS.key.type),
}
_TAKE = {
    is_sqlite: insert(idempotency_keys)
    .values(_KEY | {name: bindparam(name.name, type_=name.type) for name in (_COLUMNS.fingerprint, _COLUMNS.used_at)})
    .on_conflict_do_nothing()
    .returning(_COLUMNS.key)
    for is_sqlite, insert in ((True, sqlite.insert), (False, postgresql.insert))
}
_IS = tuple(column == given for column, given in _KEY.items())
_KNOWN = select(_COLUMNS.fingerprint, _COLUMNS.result).where(*_IS)
_KEEP = update(idempotency_keys).where(*_IS).values(result=bindparam("kept", type_=_COLUMNS.result.type))
