"""The unit of work of a tool: one for each call, and few at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from domain.storage import Storage
from domain.tool_contexts import Unfinished


class Units:
    @asynccontextmanager
    async def write(self) -> AsyncIterator[object]:
        yield object()


STORAGE = cast(Storage, Units())


async def test_a_tool_has_one_unit_of_work_also_when_it_asks_twice_at_once() -> None:
    async with Unfinished(STORAGE, asyncio.Semaphore()) as unit:
        first, second = await asyncio.gather(unit.open(), unit.open())
        assert first is second


async def test_a_tool_waits_while_as_many_units_of_work_are_open_as_may_be() -> None:
    some = asyncio.Semaphore(1)
    async with Unfinished(STORAGE, some) as first, Unfinished(STORAGE, some) as second:
        await first.open()
        waiting = asyncio.create_task(second.open())
        await asyncio.sleep(0)
        assert not waiting.done()
        await first.roll_back()
        assert await waiting is second.work
