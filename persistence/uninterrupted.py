"""Calls that go on to their end when whoever waits for them is cancelled. Nothing here knows databases."""

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Waited = asyncio.Future[Any] | None
"""What a coroutine waits for; None for its next turn."""


class Uninterrupted(Generic[T]):
    """A coroutine to be awaited once. If its task is cancelled meanwhile, it goes on in a task of its own.

    `asyncio.shield` begins with that task, which costs each call more than the driver does.
    """

    __slots__ = ("_call", "rest")

    def __init__(self, call: Coroutine[Any, Any, T]) -> None:
        self._call = call
        self.rest: asyncio.Task[None] | None = None
        """What goes on after a cancellation."""

    def __await__(self) -> Generator[Any, None, T]:
        while True:
            try:
                waited = self._call.send(None)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                yield from _arrival(waited)
            except asyncio.CancelledError:
                self.rest = asyncio.create_task(_gone_on(self._call, waited))
                raise

    @property
    def goes_on(self) -> bool:
        return self.rest is not None and not self.rest.done()


def _arrival(waited: Waited) -> Generator[Any, None, None]:
    """Wait for it in such a way that a cancellation does not reach it."""
    if waited is None:
        yield
        return
    arrived = asyncio.get_running_loop().create_future()
    waited.add_done_callback(partial(_tell, arrived))
    yield from arrived


def _tell(arrived: asyncio.Future[None], _waited: object) -> None:
    if not arrived.done():
        arrived.set_result(None)


async def _gone_on(call: Coroutine[Any, Any, Any], waited: Waited) -> None:
    """To its end, of which nobody is told."""
    try:
        while True:
            await (asyncio.sleep(0) if waited is None else asyncio.wait([waited]))
            waited = call.send(None)
    except Exception:
        return  # a StopIteration too: that is its end
