"""The relay: what is written elsewhere to the replies that are followed here, looked up once for all their readers.

One query per bell, whatever the number of replies and readers; a poll stands behind the bell, so a bell that is lost
makes news late, never missing. What is found goes into a window per reply, and that reply's own bell is rung in this
process. Nothing here knows whether a reply is really made elsewhere: what is made here is read from its tail instead.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from domain.events import LoggedEvent, Window
from domain.ports import Notifier, Storage, Telemetry
from domain.topics import ANY_REPLY, reply_topic

POLL_SECONDS = 1.0
KEPT_EVENTS = 512
READ_AT_ONCE = 256


class Followed:
    """One reply that is followed here. `gone`: the log can tell no more, each reader must look for itself."""

    __slots__ = ("gone", "readers", "window")

    def __init__(self, seq: int) -> None:
        self.window = Window(seq, KEPT_EVENTS)
        self.readers = 0
        self.gone = False


class Relay:
    def __init__(self, storage: Storage, notifier: Notifier, telemetry: Telemetry) -> None:
        self._storage = storage
        self._notifier = notifier
        self._telemetry = telemetry
        self._followed: dict[str, Followed] = {}

    @contextmanager
    def following(self, reply_id: str, seq: int) -> Iterator[Followed]:
        """Keep the reply's news from number `seq` on in memory, or from where another reader began."""
        found = self._followed.get(reply_id)
        if found is None or found.gone:
            found = self._followed[reply_id] = Followed(seq)
        found.readers += 1
        self._notifier.ring_here(ANY_REPLY)
        try:
            yield found
        finally:
            found.readers -= 1
            if not found.readers and self._followed.get(reply_id) is found:
                del self._followed[reply_id]

    async def run(self) -> None:
        """Look for news until cancelled; while the database is away, nothing is new."""
        async with self._notifier.listen(ANY_REPLY) as bell:
            while True:
                await bell.wait(POLL_SECONDS)
                if self._followed:
                    await self._tried()

    async def _tried(self) -> None:
        try:
            while await self._look():
                pass
        except Exception as error:
            self._telemetry.work_failed(error)
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> bool:
        """Whether there may be more at once."""
        asked = dict(self._followed)
        positions = {reply_id: found.window.newest for reply_id, found in asked.items() if not found.window.finished}
        if not positions:
            return False
        async with self._storage.read() as work:
            news = await work.log.news(positions, READ_AT_ONCE)
        for reply_id in positions:
            self._heard(reply_id, asked[reply_id], news.get(reply_id))
        return any(len(events) == READ_AT_ONCE for events in news.values())

    def _heard(self, reply_id: str, found: Followed, events: list[LoggedEvent] | None) -> None:
        if events == []:
            return
        if events is None:
            found.gone = True
        else:
            found.window.add(events)
        self._notifier.ring_here(reply_topic(reply_id))
