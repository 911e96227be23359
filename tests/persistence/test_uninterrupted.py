"""Calls that go on when whoever waits for them is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from persistence.uninterrupted import Uninterrupted


async def cancelled_in(call: Coroutine[Any, Any, Any], begun: asyncio.Event) -> Uninterrupted[Any]:
    """The call, after the task that waited for it was cancelled."""
    whole = Uninterrupted(call)

    async def wait() -> None:
        await whole

    task = asyncio.create_task(wait())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    return whole


async def test_a_call_gives_what_it_gives_and_raises_what_it_raises() -> None:
    async def divide(by: int) -> int:
        for seconds in (0, 0.001):
            await asyncio.sleep(seconds)
        return 6 // by

    assert await Uninterrupted(divide(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await Uninterrupted(divide(0))


async def test_a_call_goes_on_to_its_end_after_the_task_that_waited_was_cancelled() -> None:
    begun, go, steps = asyncio.Event(), asyncio.Event(), list[int]()

    async def call() -> None:
        begun.set()
        await go.wait()
        for step in range(3):
            await asyncio.sleep(0)
            steps.append(step)

    whole = await cancelled_in(call(), begun)
    assert whole.goes_on
    assert whole.rest is not None
    go.set()
    await whole.rest
    assert steps == [0, 1, 2]
    assert not whole.goes_on


async def test_an_error_of_which_nobody_would_hear_bothers_nobody() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        begun.set()
        await go.wait()
        raise ValueError

    whole = await cancelled_in(call(), begun)
    assert whole.rest is not None
    go.set()
    await whole.rest


async def test_a_call_that_is_cancelled_from_within_is_over() -> None:
    waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def call() -> None:
        await waited

    asyncio.get_running_loop().call_soon(waited.cancel)
    whole = Uninterrupted(call())
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert whole.rest is None
