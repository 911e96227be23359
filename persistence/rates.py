"""How often what was tried: one row per key with the instants of its hits, in seconds since 1970.

The instants come from the clock that all processes share. Nothing here knows what a key stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, select, update

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
        counter = await self._read(self._of(key))
        counted = [] if counter is None else within(counter, window.total_seconds())
        return len(counted), _instant(counted[0]) + window if counted else None

    async def hold(self, key: str) -> None:
        await self._held(key)

    async def forgive(self, key: str) -> None:
        counter = await self._read(self._of(key).with_for_update())
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
        query = self._of(key).with_for_update()
        while (counter := await self._read(query)) is None:
            new = self._connection.insert(rates).values(key=key, hits=[], expires_at=self._connection.now())
            await self._connection.execute(new.on_conflict_do_nothing())
        return counter

    def _of(self, key: str) -> Select[*tuple[Any, ...]]:
        return select(rates.c.hits, self._connection.now().label("now")).where(_is(key))

    async def _read(self, query: Select[*tuple[Any, ...]]) -> Counter | None:
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else Counter(row.hits, max([row.now.timestamp(), *row.hits[-1:]]))

    async def _store(self, key: str, hits: list[float], **more: datetime) -> None:
        await self._connection.execute(update(rates).where(_is(key)).values(hits=hits, **more))


def _is(key: str) -> ColumnElement[bool]:
    return rates.c.key == key


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
