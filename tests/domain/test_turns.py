"""Who waits for a turn goes on with the next commit, all of them, and nobody who has left holds it up."""

import asyncio

from domain.turns import Turns


async def test_all_who_wait_have_gone_on_when_the_turn_is_given() -> None:
    turns, gone_on = Turns(), []

    async def wait(number: int) -> None:
        await turns.wait()
        gone_on.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(100)]
    await turns.wanted.wait()
    assert len(turns) == len(waiting)
    await turns.give()
    assert gone_on == list(range(len(waiting)))
    assert len(turns) == 0


async def test_who_gave_up_waiting_is_passed_over() -> None:
    turns = Turns()
    left, stayed = turns.wait(), turns.wait()
    await turns.wanted.wait()
    left.cancel()
    await turns.give()
    assert stayed.done()
    assert left.cancelled()


async def test_by_shares_everybody_has_one_turn_before_anybody_has_a_second() -> None:
    turns, gone_on = Turns(), []

    async def wait_again_and_again(number: int) -> None:
        while True:
            await turns.wait()
            gone_on.append(number)

    waiting = [asyncio.create_task(wait_again_and_again(number)) for number in range(10)]
    await turns.wanted.wait()
    for _ in range(6):
        await turns.give(1 / 3)
    assert gone_on == [*range(10), *range(10), *range(4)]
    for task in waiting:
        task.cancel()
