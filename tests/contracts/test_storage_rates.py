"""The contract of Rates, on every database, and the law of the moving window."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from persistence.rates import Counter, seconds_until_free, within
from persistence.tables import rates
from tests.contracts.storing import Shelf
from tests.persistence.statements import sent_statements

AN_HOUR = timedelta(hours=1)
OVER = timedelta()
"""A window that is over at once."""


async def hit(shelf: Shelf, limit: int = 3, key: str = "login:me", window: timedelta = AN_HOUR) -> float | None:
    async with shelf.storage.write() as work:
        wait = await work.rates.hit(key, limit, window)
        await work.commit()
    return wait


async def count(shelf: Shelf, key: str = "login:me") -> int:
    async with shelf.storage.read() as work:
        return (await work.rates.count(key, AN_HOUR))[0]


async def forgive(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.rates.forgive("login:me")
        await work.commit()


async def reset(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.rates.reset("login:me")
        await work.commit()


async def counters(shelf: Shelf) -> int:
    async with shelf.database.connect(writing=False) as connection:
        return int((await connection.execute(select(func.count()).select_from(rates))).scalar_one())


# ── the moving window ──

GAPS = st.lists(st.integers(0, 30), max_size=60)


@given(GAPS, st.integers(1, 5), st.integers(1, 60))
def test_there_are_never_more_hits_than_the_limit_in_any_window(gaps: list[int], limit: int, window: int) -> None:
    allowed: list[float] = []
    for now in accumulate(gaps, initial=0.1):
        if seconds_until_free(Counter(allowed, now), limit, window) is None:
            allowed = [*allowed, now]
    assert all(late - early >= window for early, late in zip(allowed, allowed[limit:], strict=False))


@given(GAPS, st.integers(1, 5), st.integers(1, 60))
def test_what_no_longer_counts_may_be_forgotten(gaps: list[int], limit: int, window: int) -> None:
    remembered: list[float] = []
    kept: list[float] = []
    for now in accumulate(gaps, initial=0):
        wait = seconds_until_free(Counter(remembered, now), limit, window)
        assert wait == seconds_until_free(Counter(kept, now), limit, window)
        if wait is None:
            remembered, kept = [*remembered, now], [*within(Counter(kept, now), window), now]
            assert len(kept) <= limit


@given(GAPS, st.integers(1, 5), st.integers(1, 60))
def test_whoever_waits_as_long_as_was_said_gets_in_and_not_before(gaps: list[int], limit: int, window: int) -> None:
    hits = list(accumulate(gaps, initial=0))
    wait = seconds_until_free(Counter(hits, hits[-1]), limit, window)
    if wait is not None:
        assert 0 < wait <= window
        assert seconds_until_free(Counter(hits, hits[-1] + wait), limit, window) is None
        assert seconds_until_free(Counter(hits, hits[-1] + wait - 0.5), limit, window) is not None


# ── counters ──


async def test_as_many_as_the_limit_get_in_and_the_next_is_told_when(shelf: Shelf) -> None:
    assert [await hit(shelf) for _ in range(3)] == [None] * 3
    wait = await hit(shelf)
    assert wait is not None
    assert 0 < wait <= AN_HOUR.total_seconds()
    assert await count(shelf) == 3


async def test_each_key_counts_for_itself(shelf: Shelf) -> None:
    assert [await hit(shelf, 1, key) for key in ("login:me", "login:you", "login:ME", "🧀 ' \\")] == [None] * 4
    assert await hit(shelf, 1) is not None


async def test_a_hit_counts_no_more_when_the_window_is_over(shelf: Shelf) -> None:
    assert [await hit(shelf, 1, window=OVER) for _ in range(3)] == [None] * 3
    assert await count(shelf) == 1


async def test_a_limit_that_was_lowered_holds_at_once(shelf: Shelf) -> None:
    for _ in range(3):
        await hit(shelf, 3)
    assert await hit(shelf, 1) is not None
    assert await hit(shelf, 4) is None


async def test_of_many_at_once_exactly_the_limit_gets_in(shelf: Shelf) -> None:
    assert (await asyncio.gather(*(hit(shelf, 4) for _ in range(20)))).count(None) == 4
    assert await count(shelf) == 4


async def test_of_many_at_once_on_a_known_counter_exactly_the_limit_gets_in(shelf: Shelf) -> None:
    await hit(shelf, 4)
    assert (await asyncio.gather(*(hit(shelf, 4) for _ in range(20)))).count(None) == 3


async def test_instants_do_not_run_backwards(shelf: Shelf) -> None:
    await asyncio.gather(*(hit(shelf, 20) for _ in range(20)))
    async with shelf.database.connect(writing=False) as connection:
        (hits,) = (await connection.execute(select(rates.c.hits))).scalars()
    assert all(early <= late for early, late in pairwise(hits))


async def test_what_is_rolled_back_was_not_counted(shelf: Shelf) -> None:
    for _ in range(3):
        async with shelf.storage.write() as work:
            assert await work.rates.hit("login:me", 1, AN_HOUR) is None
    assert await count(shelf) == 0


async def test_whoever_waits_for_a_counter_gets_in_when_the_other_gives_up(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.rates.hit("login:me", 1, AN_HOUR)
        waiting = asyncio.create_task(hit(shelf, 1))
        await shelf.somebody_waits()
        assert not waiting.done()
    assert await waiting is None


async def test_counting_tells_when_the_oldest_leaves_the_window_and_waits_for_nobody(shelf: Shelf) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    for _ in range(2):
        await hit(shelf)
    after = datetime.now(UTC) + timedelta(seconds=1)
    async with shelf.storage.write() as work:
        await work.rates.hit("login:me", 3, AN_HOUR)
        async with shelf.storage.read() as reading:
            number, leaves = await reading.rates.count("login:me", AN_HOUR)
    assert number == 2
    assert leaves is not None
    assert before + AN_HOUR <= leaves <= after + AN_HOUR


async def test_nothing_was_counted_under_a_key_that_nobody_used(shelf: Shelf) -> None:
    async with shelf.storage.read() as work:
        assert await work.rates.count("login:me", AN_HOUR) == (0, None)


async def test_forgiving_takes_one_hit_back(shelf: Shelf) -> None:
    for _ in range(2):
        await hit(shelf, 2)
    await forgive(shelf)
    assert await count(shelf) == 1
    assert [await hit(shelf, 2) is None for _ in range(2)] == [True, False]


async def test_there_is_nothing_to_forgive_under_a_key_that_nobody_used(shelf: Shelf) -> None:
    await forgive(shelf)
    await hit(shelf)
    for _ in range(2):
        await forgive(shelf)
    assert await count(shelf) == 0


async def test_a_reset_takes_all_hits_back(shelf: Shelf) -> None:
    for _ in range(3):
        await hit(shelf)
    await reset(shelf)
    assert await count(shelf) == 0
    assert await hit(shelf, 1) is None


async def test_a_sweep_removes_counters_that_count_nothing_any_more(shelf: Shelf) -> None:
    await hit(shelf, key="over", window=OVER)
    await hit(shelf)
    async with shelf.storage.write() as work:
        await work.rates.sweep()
        await work.commit()
    assert await counters(shelf) == 1
    assert await count(shelf) == 1


async def test_sweeps_and_hits_at_once_do_not_hinder_each_other(shelf: Shelf) -> None:
    async def sweep() -> None:
        async with shelf.storage.write() as work:
            await work.rates.sweep()
            await work.commit()

    for _ in range(5):
        await asyncio.gather(*(hit(shelf, window=OVER) for _ in range(5)), *(sweep() for _ in range(3)))


async def test_a_hit_on_a_known_counter_is_two_statements_and_a_refusal_one(shelf: Shelf) -> None:
    await hit(shelf)
    async with shelf.storage.write() as work:
        with sent_statements() as sent:
            assert await work.rates.hit("login:me", 2, AN_HOUR) is None
        assert len(sent) == 2
        with sent_statements() as sent:
            assert await work.rates.hit("login:me", 2, AN_HOUR) is not None
        assert len(sent) == 1


# ── holding ──


async def test_who_holds_a_counter_counts_nothing(shelf: Shelf) -> None:
    await hit(shelf)
    async with shelf.storage.write() as work:
        await work.rates.hold("login:me")
        await work.commit()
    assert await count(shelf) == 1


async def test_a_hit_waits_for_whoever_holds_the_counter(shelf: Shelf) -> None:
    """Also of a counter that nobody has hit."""
    async with shelf.storage.write() as work:
        await work.rates.hold("login:me")
        waiting = asyncio.create_task(hit(shelf))
        await shelf.somebody_waits()
        assert not waiting.done()
        await work.commit()
    assert await waiting is None
    assert await count(shelf) == 1
