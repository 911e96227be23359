"""The contract of Notifier: every ring between listening and leaving is noticed, once."""

import asyncio

import pytest

from domain.ports import Bell, Notifier
from persistence.notifier import LocalNotifier

LONG = 30.0


@pytest.fixture(params=[LocalNotifier])
def notifier(request: pytest.FixtureRequest) -> Notifier:
    made: Notifier = request.param()
    return made


async def rang(bell: Bell) -> bool:
    """Whether a ring is waiting already."""
    return await bell.wait(0)


async def test_a_ring_wakes_whoever_waits(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        waiting = asyncio.create_task(bell.wait(LONG))
        await asyncio.sleep(0)
        notifier.ring("a")
        assert await waiting


async def test_a_ring_between_listening_and_waiting_is_noticed(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        notifier.ring("a")
        assert await bell.wait(LONG)


async def test_a_bell_that_was_heard_is_quiet_again(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        notifier.ring("a")
        assert [await bell.wait(LONG), await rang(bell)] == [True, False]


async def test_a_ring_while_its_listener_is_busy_is_kept(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        notifier.ring("a")
        await bell.wait(LONG)
        notifier.ring("a")
        assert await bell.wait(LONG)


async def test_many_rings_that_nobody_heard_are_one(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        for _ in range(3):
            notifier.ring("a")
        assert [await bell.wait(LONG), await rang(bell)] == [True, False]


async def test_without_a_ring_the_wait_ends_with_its_time(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        assert not await bell.wait(0.01)


async def test_a_wait_that_ran_out_loses_no_later_ring(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        await bell.wait(0)
        notifier.ring("a")
        assert await bell.wait(LONG)


async def test_a_wait_that_was_cancelled_loses_no_later_ring(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        waiting = asyncio.create_task(bell.wait(LONG))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        notifier.ring("a")
        assert await bell.wait(LONG)


async def test_other_topics_do_not_ring(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        notifier.ring("b", "aa", "")
        assert not await rang(bell)


async def test_one_call_rings_for_several_topics(notifier: Notifier) -> None:
    async with notifier.listen("a") as one, notifier.listen("b") as other:
        notifier.ring("b", "a")
        assert [await one.wait(LONG), await other.wait(LONG)] == [True, True]


async def test_everybody_who_listens_to_a_topic_hears_it(notifier: Notifier) -> None:
    async with notifier.listen("a") as one, notifier.listen("a") as other:
        notifier.ring("a")
        assert [await one.wait(LONG), await other.wait(LONG)] == [True, True]


async def test_whoever_leaves_does_not_take_the_bell_from_the_others(notifier: Notifier) -> None:
    async with notifier.listen("a") as staying:
        async with notifier.listen("a"):
            pass
        notifier.ring("a")
        assert await staying.wait(LONG)


async def test_a_ring_before_listening_is_not_heard(notifier: Notifier) -> None:
    notifier.ring("a")
    async with notifier.listen("a") as bell:
        assert not await rang(bell)


async def test_a_topic_is_forgotten_with_its_last_listener() -> None:
    notifier = LocalNotifier()
    before = vars(notifier).copy()
    with pytest.raises(RuntimeError):
        async with notifier.listen("a"), notifier.listen("a"):
            raise RuntimeError
    assert vars(notifier) == before == vars(LocalNotifier())
