"""The contract of Notifier: every ring between listening and leaving is noticed, once, in this process and others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from domain.ports import Bell, Notifier
from domain.topics import ANY_REPLY, QUEUE, reply_topic
from persistence.database import normalised
from persistence.notifier import LocalNotifier, PostgresNotifier
from tests.contracts.conftest import run_alone

LONG = 30.0
HANG_UP = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name = 'tertulia-bell'"
"""Waits until all have gone, so that who rings next rings no bell that is cut already."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[PostgresNotifier]:
    notifier = PostgresNotifier(normalised(url))
    running = asyncio.create_task(notifier.run())
    await notifier.connected.wait()
    yield notifier
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@pytest.fixture(params=["local", "postgresql"])
async def notifier(request: pytest.FixtureRequest) -> AsyncIterator[Notifier]:
    if request.param == "local":
        yield LocalNotifier()
        return
    async with connected(request.getfixturevalue("postgres")) as made:
        yield made


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


async def test_a_ring_for_this_process_alone_is_heard_here(notifier: Notifier) -> None:
    async with notifier.listen("a") as bell:
        notifier.ring_here("a")
        assert await bell.wait(LONG)


# ── between processes ──


async def test_a_ring_is_heard_in_another_process(postgres: str) -> None:
    async with connected(postgres) as here, connected(postgres) as there, there.listen(QUEUE) as bell:
        await bell.wait(0)
        here.ring(QUEUE)
        assert await bell.wait(LONG)


async def test_another_process_hears_the_kind_and_not_the_one(postgres: str) -> None:
    async with (
        connected(postgres) as here,
        connected(postgres) as there,
        there.listen(ANY_REPLY) as kind,
        there.listen(reply_topic("msg_1")) as one,
    ):
        here.ring(reply_topic("msg_1"))
        assert await kind.wait(LONG)
        assert not await rang(one)


async def test_nobody_hears_the_echo_of_its_own_ring(postgres: str) -> None:
    async with connected(postgres) as here, connected(postgres) as there, here.listen(ANY_REPLY) as own:
        async with there.listen(ANY_REPLY) as other:
            here.ring(reply_topic("msg_1"))
            await other.wait(LONG)
        assert not await rang(own)


async def test_a_ring_for_this_process_alone_is_not_heard_elsewhere(postgres: str) -> None:
    async with (
        connected(postgres) as here,
        connected(postgres) as there,
        there.listen(QUEUE) as bell,
        there.listen("end") as end,
    ):
        here.ring_here(QUEUE)
        here.ring("end")
        await end.wait(LONG)
        assert not await rang(bell)


async def test_a_connection_that_was_cut_is_made_again_and_rings_for_what_may_have_been_missed(postgres: str) -> None:
    async with connected(postgres) as here, connected(postgres) as there, there.listen(QUEUE) as bell:
        await bell.wait(0)
        await run_alone(postgres, HANG_UP)
        assert await bell.wait(LONG)
        await there.connected.wait()
        await here.connected.wait()
        await bell.wait(0)
        here.ring(QUEUE)
        assert await bell.wait(LONG)


async def test_what_was_rung_last_is_sent_before_the_end(postgres: str) -> None:
    async with connected(postgres) as there, there.listen(QUEUE) as bell:
        async with connected(postgres) as here:
            here.ring(QUEUE)
            await here.flush(LONG)
        assert await bell.wait(LONG)


async def test_what_is_rung_while_nobody_is_connected_is_heard_here() -> None:
    notifier = PostgresNotifier(normalised("postgresql://nobody@127.0.0.1:1/none"))
    async with notifier.listen(QUEUE) as bell:
        notifier.ring(QUEUE)
        assert await rang(bell)
