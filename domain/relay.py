"""The relay: what other processes write to what is followed here, looked up once for all who follow.

One query per bell, whatever the number of replies and readers; a poll stands behind the bell, so a bell that is lost
makes news late, never missing. News of replies go into a window per reply; of users only the numbers are compared.
Then the bell of that reply or user is rung in this process. Nothing here knows whether a reply is really made
elsewhere: what is made here is read from its tail instead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from domain.events import LoggedEvent, Window
from domain.ports import Notifier, Telemetry
from domain.storage import Storage
from domain.topics import ANY_REPLY, ANY_USER, reply_topic, user_topic

POLL_SECONDS = 1.0
KEPT_EVENTS = 512
READ_AT_ONCE = 256
LONGEST_REST_SECONDS = 0.1


class Followed:
    """One reply that is followed here. `gone`: the log can tell no more, each reader must look for itself."""

    __slots__ = ("gone", "readers", "window")

    def __init__(self, seq: int) -> None:
        self.window = Window(seq, KEPT_EVENTS)
        self.readers = 0
        self.gone = False


class FollowedUser:
    """A user whose events are followed here, and the number of the last one known of."""

    __slots__ = ("readers", "seq")

    def __init__(self) -> None:
        self.seq = -1
        self.readers = 0


class Relay:
    def __init__(self, storage: Storage, notifier: Notifier, telemetry: Telemetry) -> None:
        self._storage = storage
        self._notifier = notifier
        self._telemetry = telemetry
        self._followed: dict[str, Followed] = {}
        self._users: dict[str, FollowedUser] = {}

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

    @contextmanager
    def following_user(self, user_id: str) -> Iterator[None]:
        """Have the user's bell rung here for what other processes tell of."""
        found = self._users.setdefault(user_id, FollowedUser())
        found.readers += 1
        self._notifier.ring_here(ANY_USER)
        try:
            yield
        finally:
            found.readers -= 1
            if not found.readers:
                del self._users[user_id]

    async def run(self) -> None:
        """Look for news until cancelled; while the database is away, nothing is new."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(ANY_REPLY, self._look_at_replies))
            group.create_task(self._watch(ANY_USER, self._look_at_users))

    async def _watch(self, topic: str, look: Callable[[], Awaitable[None]]) -> None:
        """After each look it rests for as long as that took: under load bells come faster than they can be served."""
        loop = asyncio.get_running_loop()
        async with self._notifier.listen(topic) as bell:
            while True:
                await bell.wait(POLL_SECONDS)
                started = loop.time()
                try:
                    await look()
                except Exception as error:
                    self._telemetry.work_failed(error)
                    await asyncio.sleep(POLL_SECONDS)
                await asyncio.sleep(min(LONGEST_REST_SECONDS, loop.time() - started))

    async def _look_at_users(self) -> None:
        if not self._users:
            return
        async with self._storage.peek() as work:
            positions = await work.feed.positions(list(self._users))
        for user_id, seq in positions.items():
            found = self._users.get(user_id)
            if found is not None and found.seq != seq:
                found.seq = seq
                self._notifier.ring_here(user_topic(user_id))

    async def _look_at_replies(self) -> None:
        while self._followed and await self._look():
            pass

    async def _look(self) -> bool:
        """Whether there may be more at once."""
        asked = dict(self._followed)
        positions = {reply_id: found.window.newest for reply_id, found in asked.items() if not found.window.finished}
        if not positions:
            return False
        async with self._storage.peek() as work:
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
