"""One transaction with its repositories; what was not committed is rolled back."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ports import Clock
from domain.storage import FlushEntry, FlushReport
from persistence.accounts import SqlUsers
from persistence.api_keys import SqlApiKeys
from persistence.budgets import SqlBudgets
from persistence.connection import Connection
from persistence.conversations import SqlConversations
from persistence.database import Database
from persistence.feed import SqlFeed
from persistence.keys import SqlIdempotencyKeys
from persistence.messages import SqlMessages
from persistence.rates import SqlRates
from persistence.replies import SqlReplies
from persistence.sessions import SqlSessions
from persistence.streaming import SqlLog
from persistence.tasks import SqlTasks
from persistence.tool_calls import SqlToolCalls
from persistence.turns import SqlTurns
from persistence.unit import Unit
from persistence.workers import SqlWorkers


class SqlUnitOfWork:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self.feed = SqlFeed(connection)
        self.budgets = SqlBudgets(connection)
        self.users = SqlUsers(connection, clock)
        self.sessions = SqlSessions(connection)
        self.api_keys = SqlApiKeys(connection)
        self.rates = SqlRates(connection)
        self.conversations = SqlConversations(connection, self.feed)
        self.messages = SqlMessages(connection)
        self.replies = SqlReplies(connection, clock, self.feed)
        self.turns = SqlTurns(connection, self.feed)
        self.tool_calls = SqlToolCalls(connection, self.feed)
        self.tasks = SqlTasks(connection)
        self.log = SqlLog(connection, clock, self.feed, self.budgets)
        self.workers = SqlWorkers(connection, clock, self.feed, self.budgets)
        self.keys = SqlIdempotencyKeys(connection, clock)

    @property
    def connection(self) -> AsyncConnection:
        """For tables that are not ours: what a tool writes there is committed with its result, or not at all.

        What runs here must not commit. A statement whose task is cancelled meanwhile costs this connection.
        """
        return self._connection.plain

    async def commit(self) -> None:
        await self.budgets.write()
        await self.feed.write()
        await self._connection.commit()


class SqlStorage:
    """Units of work on one database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.embedded = database.is_sqlite

    async def flush(self, owner: str, entries: Sequence[FlushEntry]) -> FlushReport:
        """A flush in which nothing ends is one statement, so it commits by itself: one round trip."""
        alone = all(entry.outcome is None for entry in entries)
        async with self._database.connect(writing=True, alone=alone) as connection:
            work = SqlUnitOfWork(connection, self._clock)
            report = await work.log.flush(owner, entries)
            if not alone:
                await work.commit()
        return report

    def write(self) -> AbstractAsyncContextManager[SqlUnitOfWork]:
        return _Working(self._database.connect(writing=True), self._clock)

    def read(self) -> AbstractAsyncContextManager[SqlUnitOfWork]:
        return _Working(self._database.connect(writing=False), self._clock)

    def peek(self) -> AbstractAsyncContextManager[SqlUnitOfWork]:
        return _Working(self._database.connect(writing=False, alone=True), self._clock)

    async def ping(self) -> None:
        """Raises Unavailable or StorageError when the database does not answer."""
        async with self._database.connect(writing=False, alone=True) as connection:
            await connection.execute(select(1))


class _Working:
    """A unit of work for as long as its transaction."""

    __slots__ = ("_clock", "_unit")

    def __init__(self, unit: Unit, clock: Clock) -> None:
        self._unit = unit
        self._clock = clock

    async def __aenter__(self) -> SqlUnitOfWork:
        return SqlUnitOfWork(await self._unit.__aenter__(), self._clock)

    async def __aexit__(self, *_: object) -> None:
        await self._unit.__aexit__()
