"""Bells without content: inside one process, and between the processes that share a PostgreSQL.

Between processes a ring is a NOTIFY that names kinds of things (see `domain/topics.py`), sent after the commit it tells
of, and heard on one connection per process that does nothing else. That connection may break at any time: every
listener has a poll behind its bell, and all bells are rung once when it is there again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from domain.topics import elsewhere
from persistence.connection import DRIVER_ERRORS

CHANNEL = "tertulia"
ANSWER_SECONDS = 5.0
"""A connection that says nothing for so long is dead."""
PING_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
BELL_ERRORS = (*DRIVER_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


class EventBell:
    """A bell for one who waits; a ring before the wait is kept.

    Less than an asyncio.Event and a time limit, of which every idle subscription would hold both. The alarm stays set
    when the bell has rung: who waits again at once, as readers do, is served by it, or by another when it goes off.
    """

    __slots__ = ("_alarm", "_rung", "_until", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None
        self._until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        self._rung = True
        _wake(self._waiting)

    async def wait(self, timeout: float) -> bool:
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            self._until = loop.time() + timeout
            if self._alarm is None or self._alarm.when() > self._until:
                self.silence()
                self._alarm = loop.call_at(self._until, self._went_off)
            try:
                await self._waiting
            finally:
                self._waiting = None
        rung, self._rung = self._rung, False
        return rung

    def silence(self) -> None:
        """Nobody will wait any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _went_off(self) -> None:
        loop, self._alarm = asyncio.get_running_loop(), None
        if self._waiting is None:
            return
        if loop.time() < self._until:
            self._alarm = loop.call_at(self._until, self._went_off)
        else:
            _wake(self._waiting)


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


class LocalNotifier:
    """Wakes listeners of this process only: all there are on an embedded database."""

    def __init__(self) -> None:
        self._bells: dict[str, set[EventBell]] = {}

    def ring(self, *topics: str) -> None:
        for topic in topics:
            for bell in self._bells.get(topic, ()):
                bell.ring()

    def ring_here(self, *topics: str) -> None:
        self.ring(*topics)

    def ring_all(self) -> None:
        self.ring(*self._bells)

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncIterator[EventBell]:
        bell = EventBell()
        self._bells.setdefault(topic, set()).add(bell)
        try:
            yield bell
        finally:
            bell.silence()
            bells = self._bells[topic]
            bells.discard(bell)
            if not bells:
                del self._bells[topic]


class PostgresNotifier:
    """Wakes listeners of every process on the same database; between them a ring says only which kind it was for.

    Run `run()` for as long as it shall hear and be heard; without it it is a LocalNotifier. Rings that come while
    another is being sent go out together.
    """

    def __init__(self, url: URL) -> None:
        self._local = LocalNotifier()
        self._url = url
        self._name = secrets.token_hex(8)
        self._outbox: set[str] = set()
        self._wanted = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self.connected = asyncio.Event()
        """Set while it hears."""

    def ring(self, *topics: str) -> None:
        self._local.ring(*topics)
        self._outbox.update(map(elsewhere, topics))
        if self._outbox:
            self._wanted.set()
            self._sent.clear()

    def ring_here(self, *topics: str) -> None:
        self._local.ring(*topics)

    def listen(self, topic: str) -> AbstractAsyncContextManager[EventBell]:
        return self._local.listen(topic)

    async def flush(self, seconds: float) -> None:
        """Wait until what was rung so far has been sent, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._sent.wait()

    async def run(self) -> None:
        """Hear and be heard until cancelled, connecting again whenever that is needed."""
        options = {
            "server_settings": {"application_name": "tertulia-bell"},
            "timeout": ANSWER_SECONDS,
            "command_timeout": ANSWER_SECONDS,
        }
        engine = create_async_engine(self._url, poolclass=NullPool, connect_args=options)
        pause = FIRST_PAUSE
        while True:
            with suppress(*BELL_ERRORS):
                async with self._connection(engine) as connection:
                    pause = FIRST_PAUSE
                    await self._converse(connection)
            self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
        async with engine.connect() as pooled:
            connection = (await pooled.get_raw_connection()).driver_connection
            assert isinstance(connection, asyncpg.Connection)
            connection.add_termination_listener(lambda _: self._wanted.set())
            await connection.execute("SET synchronous_commit = off")  # what a NOTIFY says need not survive a crash
            await connection.add_listener(CHANNEL, self._heard)
            self.connected.set()
            self._local.ring_all()
            try:
                yield connection
            finally:
                connection.terminate()

    async def _converse(self, connection: asyncpg.Connection) -> None:
        """Send what is rung; with nothing to send, ask now and then whether the other side is there."""
        while not connection.is_closed():
            kinds, self._outbox = self._outbox, set()
            self._wanted.clear()
            if kinds:
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, " ".join((self._name, *sorted(kinds))))
            else:
                await connection.execute("SELECT 1")
            if not self._outbox:
                self._sent.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await self._wanted.wait()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, *kinds = str(payload).split()
        if sender != self._name:
            self._local.ring(*kinds)
