"""Short ways to what the storage contracts do most, and a pen that numbers events as the journal does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import insert, text

from domain.accounts import LOCAL_USER_ID
from domain.conversations import (
    Conversation,
    ConversationEvent,
    GenerationSettings,
    Message,
    MessagePart,
    ModelParams,
    PartKind,
    Role,
    TitleSource,
)
from domain.events import (
    Finished,
    LoggedEvent,
    PartAdded,
    ReplyEvent,
    StatusChanged,
    TextDelta,
    ToolCallChanged,
    fold,
)
from domain.replies import FinishReason, HandOver, Lease, Outcome, Progress, Reply, ReplyStatus, Usage
from domain.storage import FlushEntry, Storage, UnitOfWork
from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus
from domain.tool_storage import StoredCall
from persistence.database import Database
from persistence.tables import users

ME = LOCAL_USER_ID
OWNER = "work_1"
BEGINNING = datetime(2026, 1, 1, 12, tzinfo=UTC)
DONE = Outcome(ReplyStatus.COMPLETE, FinishReason.STOP, usage=Usage(7, 3), requests=1, token_count=3)
LOST_ATTEMPT = HandOver(Usage(estimated=True), requests=1)
AWAITS = HandOver(Usage(4, 2), requests=1, token_count=2, awaits_approval=True)
ANSWER = (PartAdded(0, PartKind.TEXT), TextDelta(0, "Good "), TextDelta(0, "morning"))

law = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
only_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
only_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
_numbers = count(1)


def new_id(prefix: str) -> str:
    """Ids that sort in the order in which they were made, as the real ones do."""
    return f"{prefix}_{next(_numbers):032x}"


class SetClock:
    """Stands still until a test sets it on."""

    def __init__(self) -> None:
        self.at = BEGINNING

    def now(self) -> datetime:
        return self.at

    def later(self, seconds: float = 1) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


def a_conversation(**changes: Any) -> Conversation:
    plain = Conversation(
        id=new_id("conv"),
        user_id=ME,
        title="Mornings",
        title_source=TitleSource.USER,
        created_at=BEGINNING,
        updated_at=BEGINNING,
        last_activity_at=BEGINNING,
        settings=GenerationSettings(),
        metadata={},
        leaf_id=None,
    )
    return replace(plain, **changes)


def a_message(conversation_id: str, parent_id: str | None = None, **changes: Any) -> Message:
    plain = Message(
        id=new_id("msg"),
        conversation_id=conversation_id,
        parent_id=parent_id,
        role=Role.USER,
        created_at=BEGINNING,
        parts=(MessagePart(0, PartKind.TEXT, "Good morning"),),
        token_count=3,
        metadata={},
    )
    return replace(plain, **changes)


def a_reply(message: Message, **changes: Any) -> Reply:
    plain = Reply(
        id=message.id,
        conversation_id=message.conversation_id,
        status=ReplyStatus.QUEUED,
        settings=GenerationSettings("scripted", "Be kind.", ModelParams(temperature=0.5, stop=("END",))),
        instruction=None,
        behind_id=None,
        attempt=0,
        rescues=0,
        requests=0,
        stop_requested=False,
        queued_at=BEGINNING,
    )
    return replace(plain, **changes)


def a_call(status: ToolCallStatus = ToolCallStatus.AWAITING_APPROVAL, **changes: Any) -> ToolCall:
    """A call as it is once its arguments are whole; one that awaits approval has a day's time."""
    plain = ToolCall(new_id("call"), "add_task", 1, "call_7", status, '{"title": "Tea"}', {"title": "Tea"})
    if status is ToolCallStatus.AWAITING_APPROVAL:
        now = datetime.now(UTC)
        plain = replace(plain, approval=ToolApproval(now, now + timedelta(days=1)))
    return replace(plain, **changes)


@dataclass
class Pen:
    """Numbers the events of one lease and remembers them."""

    lease: Lease
    written: list[LoggedEvent] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.lease.reply_id

    def entry(self, *events: ReplyEvent, outcome: Outcome | None = None) -> FlushEntry:
        """With an outcome the entry ends with Finished and carries the final parts."""
        if outcome is not None:
            events = (*events, Finished(outcome.status))
        first = self.lease.next_seq + len(self.written)
        numbered = tuple(LoggedEvent(first + i, self.lease.attempt, event) for i, event in enumerate(events))
        self.written += numbered
        return FlushEntry(self.lease, numbered, outcome, fold(self.written) if outcome else ())


@dataclass
class Shelf:
    """Each method is one committed unit of work."""

    storage: Storage
    database: Database
    clock: SetClock

    async def user(self) -> str:
        user_id = new_id("user")
        async with self.database.connect(writing=True) as connection:
            await connection.execute(insert(users).values(id=user_id, created_at=BEGINNING))
            await connection.commit()
        return user_id

    async def conversation(self, **changes: Any) -> Conversation:
        conversation = a_conversation(**changes)
        async with self.storage.write() as work:
            await work.conversations.add(conversation)
            await work.commit()
        return conversation

    async def message(self, conversation_id: str, parent_id: str | None = None, **changes: Any) -> Message:
        message = a_message(conversation_id, parent_id, **changes)
        async with self.storage.write() as work:
            await work.messages.add(message)
            await work.commit()
        return message

    async def queued(self, conversation_id: str | None = None, parent_id: str | None = None, **changes: Any) -> str:
        """A queued reply that waits for the nearest one above, in a conversation of its own when none is named."""
        if conversation_id is None:
            conversation_id = (await self.conversation()).id
        async with self.storage.write() as work:
            reply_id = await add_reply(work, conversation_id, parent_id, **changes)
            await work.commit()
        return reply_id

    async def beat(self, owner: str = OWNER) -> None:
        async with self.storage.write() as work:
            await here(work, owner)
            await work.commit()

    async def claim(self, owner: str = OWNER, limit: int = 100) -> list[Lease]:
        async with self.storage.write() as work:
            await here(work, owner)
            leases = await work.replies.claim(owner, limit)
            await work.commit()
        return leases

    async def streaming(self, conversation_id: str | None = None, **changes: Any) -> Pen:
        """A claimed reply. Everything else that is claimable is claimed with it."""
        reply_id = await self.queued(conversation_id, **changes)
        return next(Pen(lease) for lease in await self.claim() if lease.reply_id == reply_id)

    async def flush(self, *entries: FlushEntry, owner: str = OWNER) -> list[bool]:
        """Whether each entry was stored."""
        return list((await self.storage.flush(owner, entries)).mine)

    async def calling(self, *calls: ToolCall, **changes: Any) -> Pen:
        """A claimed reply that consists of calls, told and stored as they are."""
        pen = await self.streaming(**changes)
        for index, call in enumerate(calls):
            begun = PartAdded(index, PartKind.TOOL_CALL, ToolCall(call.id, call.name, call.step))
            await self.flush(pen.entry(begun, ToolCallChanged(index, call)), owner=pen.lease.owner)
        assert await self.add_calls(pen.lease, *calls)
        return pen

    async def awaiting(self, *calls: ToolCall, **changes: Any) -> Pen:
        """A reply that awaits the approval of calls; of one when none is given."""
        pen = await self.calling(*(calls or (a_call(),)), **changes)
        assert await self.flush(awaiting(pen)) == [True]
        return pen

    async def add_calls(self, lease: Lease, *calls: ToolCall) -> bool:
        async with self.storage.write() as work:
            added = await work.tool_calls.add(lease, list(enumerate(calls)))
            if added:
                await work.commit()
        return added

    async def finish(self, lease: Lease, call: ToolCall) -> bool:
        async with self.storage.write() as work:
            finished = await work.tool_calls.finish(lease, call)
            if finished:
                await work.commit()
        return finished

    async def calls(self, reply_id: str) -> dict[str, ToolCall]:
        """What is stored of a reply's calls."""
        async with self.storage.read() as work:
            return await work.tool_calls.of(reply_id)

    async def decide(self, call_id: str, status: ToolCallStatus = ToolCallStatus.QUEUED, user_id: str = ME) -> bool:
        """Whether there was something to decide on."""
        async with self.storage.write() as work:
            stored = await work.tool_calls.get(user_id, call_id)
            if stored is None or stored.call.status is not ToolCallStatus.AWAITING_APPROVAL:
                return False
            await work.tool_calls.decide(stored, replace(stored.call, status=status))
            await work.commit()
        return True

    async def expired(self) -> list[StoredCall]:
        async with self.storage.write() as work:
            return await work.tool_calls.expired(100)

    async def settled(self, **changes: Any) -> Pen:
        pen = await self.streaming(**changes)
        await self.flush(pen.entry(*ANSWER, outcome=DONE))
        return pen

    async def stop(self, reply_id: str) -> ReplyStatus | None:
        async with self.storage.write() as work:
            status = await work.replies.request_stop(reply_id)
            await work.commit()
        return status

    async def found(self, message_id: str) -> Message:
        async with self.storage.read() as work:
            return (await work.messages.watched([message_id]))[message_id]

    async def made(self, reply_id: str) -> Reply:
        reply = (await self.found(reply_id)).reply
        assert reply is not None
        return reply

    async def status(self, reply_id: str) -> ReplyStatus:
        return (await self.made(reply_id)).status

    async def progress(self, reply_id: str) -> Progress | None:
        async with self.storage.read() as work:
            return await work.replies.progress(reply_id)

    async def log(self, reply_id: str, after: int = 0) -> list[LoggedEvent]:
        async with self.storage.read() as work:
            return await work.log.after(reply_id, after, 10_000)

    async def told(self, user_id: str = ME, after: int = 0) -> list[ConversationEvent]:
        """What happened to the user's conversations."""
        async with self.storage.read() as work:
            return (await work.feed.after(user_id, after, 10_000))[1]

    async def orphans(self, lease_seconds: float = 0) -> list[Lease]:
        async with self.storage.write() as work:
            return await work.workers.orphans(lease_seconds, 100)

    async def requeue(self, lease: Lease, ended: HandOver = LOST_ATTEMPT) -> None:
        async with self.storage.write() as work:
            await work.workers.requeue(lease, ended)
            await work.commit()

    async def somebody_waits(self) -> None:
        """Return when a transaction waits for another one's lock. On SQLite writers queue for the one connection."""
        if self.database.is_sqlite:
            return await asyncio.sleep(0)
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while True:
            async with self.database.connect(writing=False) as connection:
                if (await connection.execute(waiting)).scalar_one():
                    return None


def awaiting(pen: Pen) -> FlushEntry:
    """The end of an attempt whose calls await approval."""
    return replace(pen.entry(StatusChanged(ReplyStatus.AWAITING_APPROVAL)), outcome=AWAITS)


async def here(work: UnitOfWork, owner: str) -> None:
    if not await work.workers.beat(owner):
        await work.workers.enter(owner)


async def add_reply(
    work: UnitOfWork,
    conversation_id: str,
    parent_id: str | None = None,
    *,
    reserved_tokens: int = 0,
    **changes: Any,
) -> str:
    message = a_message(conversation_id, parent_id, role=Role.ASSISTANT, parts=(), token_count=0)
    await work.messages.add(message)
    ahead = await work.replies.unsettled_above(parent_id)
    changes = {"behind_id": ahead[0] if ahead else None} | changes
    await work.replies.add(a_reply(message, **changes), reserved_tokens)
    return message.id


def ids(found: Sequence[Conversation | Message | Lease]) -> list[str]:
    return [item.reply_id if isinstance(item, Lease) else item.id for item in found]
