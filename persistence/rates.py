"""How often what was tried: one row per key with the instants of its hits, in seconds since 1970.

The instants come from the clock that all processes share. Nothing here knows what a key stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Select, bindparam, delete, func, select, update

from persistence.connection import Connection
from persistence.tables import rates

SWEPT_AT_ONCE = 10_000
"""So that a sweep of many counters does not hold up everybody else's writes."""


@dataclass(frozen=True, slots=True)
class Counter:
    """The hits of a key, oldest first, and the present instant, which is never before the newest of them."""

    hits: Sequence[float]
    now: float


def within(counter: Counter, window: float) -> list[float]:
    """The hits that still count: one counts for `window` seconds."""
    return [hit for hit in counter.hits if counter.now - hit < window]


def seconds_until_free(counter: Counter, limit: int, window: float) -> float | None:
    """None when another hit may follow now; `limit` is at least 1."""
    counted = within(counter, window)
    return None if len(counted) < limit else window - (counter.now - counted[-limit])


class SqlRates:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def hit(self, key: str, limit: int, window: timedelta) -> float | None:
        """Two statements for a key that is known; one when the answer is no."""
        counter = await self._held(key)
        seconds = window.total_seconds()
        wait = seconds_until_free(counter, limit, seconds)
        if wait is None:
            hits = [*within(counter, seconds), counter.now]
            await self._store(key, hits, expires_at=_instant(counter.now) + window)
        return wait

    async def count(self, key: str, window: timedelta) -> tuple[int, datetime | None]:
        counter = await self._read(key)
        counted = [] if counter is None else within(counter, window.total_seconds())
        return len(counted), _instant(counted[0]) + window if counted else None

    async def hold(self, key: str) -> None:
        await self._held(key)

    async def forgive(self, key: str) -> None:
        counter = await self._read(key, held=True)
        if counter is not None:
            await self._store(key, list(counter.hits[:-1]))

    async def reset(self, key: str) -> None:
        await self._connection.execute(delete(rates).where(_is(key)))

    async def sweep(self) -> None:
        old = select(rates.c.key).where(rates.c.expires_at <= self._connection.now())
        old = old.limit(SWEPT_AT_ONCE).with_for_update(skip_locked=True)
        await self._connection.execute(delete(rates).where(rates.c.key.in_(select(old.cte("old")))))

    async def _held(self, key: str) -> Counter:
        """The insert waits for whoever makes the same counter; a sweep may remove it before it is held."""
        while (counter := await self._read(key, held=True)) is None:
            new = self._connection.insert(rates).values(key=key, hits=[], expires_at=self._connection.now())
            await self._connection.execute(new.on_conflict_do_nothing())
        return counter

    async def _read(self, key: str, *, held: bool = False) -> Counter | None:
        sqlite = self._connection.is_sqlite
        rows = await self._connection.fetch(_READ[sqlite, held], {"of_key": key})
        if not rows:
            return None
        hits, now = rows[0].hits, datetime.now(UTC) if sqlite else rows[0].now
        return Counter(hits, max([now.timestamp(), *hits[-1:]]))

    async def _store(self, key: str, hits: list[float], expires_at: datetime | None = None) -> None:
        stored = {"of_key": key, "counted": hits}
        if expires_at is None:
            await self._connection.send(_STORE, stored)
        else:
            await self._connection.send(_STORE_UNTIL, stored | {"until": expires_at})


def _read(*, sqlite: bool, held: bool) -> Select[*tuple[Any, ...]]:
    now = [] if sqlite else [func.clock_timestamp(type_=DateTime(timezone=True)).label("now")]
    query = select(rates.c.hits, *now).where(rates.c.key == bindparam("of_key"))
    return query.with_for_update() if held else query


_READ = {(sqlite, held): _read(sqlite=sqlite, held=held) for sqlite in (True, False) for held in (True, False)}
_STORE = (
    update(rates).where(rates.c.key == bindparam("of_key")).values(hits=bindparam("counted", type_=rates.c.hits.type))
)
_STORE_UNTIL = _STORE.values(expires_at=bindparam("until", type_=rates.c.expires_at.type))


def _is(key: str) -> ColumnElement[bool]:
    return rates.c.key == key


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
