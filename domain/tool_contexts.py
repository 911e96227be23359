"""What one call's function is given, and the bounds in which it runs: its time, and its unit of work.

Which call it is, and what becomes of its result, is not known here.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from domain.accounts import User
from domain.conversations import Conversation
from domain.ports import Clock, Ids
from domain.storage import Storage, UnitOfWork
from domain.tool_results import presentable
from domain.tools import Tool, ToolError

WORK_SECONDS = 5.0
"""A tool's unit of work may be open so long: half a lease, and others wait for the locks that it takes."""


class OutOfTime(Exception):
    """The tool had its time."""


class Unfinished:
    """A tool's unit of work, opened when it asks for it. What was not committed is rolled back when this is left."""

    def __init__(self, storage: Storage, some: asyncio.Semaphore) -> None:
        """`some` bounds how many are open at once."""
        self.work: UnitOfWork | None = None
        self.closed = False
        self.limit: asyncio.Timeout | None = None
        self._storage = storage
        self._some = some
        self._leaving = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> "Unfinished":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.roll_back()

    async def roll_back(self) -> None:
        self.closed = True
        self.work = None
        await self._leaving.aclose()

    async def open(self) -> UnitOfWork:
        """The same one for all who ask: what a second one did would be lost, or wait for the first for ever."""
        async with self._opening:
            if self.closed:
                raise ToolError("The call is over.")
            if self.work is None:
                await self._leaving.enter_async_context(self._some)
                self.work = await self._leaving.enter_async_context(self._storage.write())
                if self.limit is not None:
                    soon = asyncio.get_running_loop().time() + WORK_SECONDS
                    self.limit.reschedule(min(soon, self.limit.when() or soon))
            return self.work


@dataclass(frozen=True, slots=True)
class CallContext:
    """What one call's function is given; see ToolContext."""

    user: User
    conversation: Conversation
    call_id: str
    clock: Clock
    ids: Ids
    unit: Unfinished

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def new_id(self, prefix: str) -> str:
        return self.ids.new(prefix)

    async def work(self) -> UnitOfWork:
        return await self.unit.open()


async def bounded(tool: Tool, context: CallContext, arguments: Mapping[str, object]) -> object:
    """The tool's result within its time. Raises OutOfTime, and what the tool raises."""
    limit = asyncio.timeout(tool.timeout)
    context.unit.limit = limit
    try:
        async with limit:
            return presentable(await tool.run(context, arguments))
    except TimeoutError as error:
        if not limit.expired():
            raise
        what = "The tool did not answer" if context.unit.work is None else "The tool's unit of work did not end"
        raise OutOfTime(f"{what} in time.") from error
    except (SystemExit, KeyboardInterrupt) as error:  # they would end the server
        raise RuntimeError(f"the tool raised {type(error).__name__}") from error
