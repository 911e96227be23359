"""Bells without content, inside one process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class EventBell:
    """A bell over an asyncio.Event; a ring before the wait is kept."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class LocalNotifier:
    """Wakes listeners of this process only; the poll behind every bell serves the others."""

    def __init__(self) -> None:
        self._bells: dict[str, set[EventBell]] = {}

    def ring(self, *topics: str) -> None:
        for topic in topics:
            for bell in self._bells.get(topic, ()):
                bell.ring()

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncIterator[EventBell]:
        bell = EventBell()
        self._bells.setdefault(topic, set()).add(bell)
        try:
            yield bell
        finally:
            bells = self._bells[topic]
            bells.discard(bell)
            if not bells:
                del self._bells[topic]
