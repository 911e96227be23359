"""Following what happens to a user's conversations: read after a cursor, wait for the bell, without an end.

A reader holds nothing but its cursor, as in `streaming.py`. Events carry no content of their own: what is sent with
them is loaded in the snapshot in which they are read. Where a cursor cannot be served, ResyncRequired tells the reader
to query anew and go on from a fresh one. Nothing here knows transports, or what replies say while they are made.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from domain.conversations import Change, Conversation, ConversationEvent, Message
from domain.ports import Clock, Notifier, Telemetry
from domain.relay import Relay
from domain.storage import Storage, UnitOfWork
from domain.streaming import cursor_at, position_in
from domain.tool_calls import ToolCall
from domain.topics import user_topic

READ_AT_ONCE = 100
LONGEST_WAIT_SECONDS = 30.0
"""The relay looks every second, for all readers; each looks for itself so often in case that fails."""
DIGITS = 18
"""Of the largest number that a cursor may ask a database for."""


@dataclass(frozen=True, slots=True)
class ConversationCreated:
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class ConversationUpdated:
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class ConversationDeleted:
    conversation_id: str


@dataclass(frozen=True, slots=True)
class MessageAdded:
    message: Message
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    message: Message


@dataclass(frozen=True, slots=True)
class ToolApprovalRequested:
    """A call needs its user's consent. Both are as they are by now: it may have been decided on."""

    call: ToolCall
    message: Message


@dataclass(frozen=True, slots=True)
class ResyncRequired:
    """Some events cannot be told any more: query again, then go on from this cursor."""


Happened = (
    ConversationCreated
    | ConversationUpdated
    | ConversationDeleted
    | MessageAdded
    | MessageUpdated
    | ToolApprovalRequested
    | ResyncRequired
)
WITHOUT_CONVERSATION = frozenset({Change.CONVERSATION_DELETED, Change.MESSAGE_UPDATED, Change.TOOL_APPROVAL_REQUESTED})
"""What is told of these carries no conversation."""


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """What a reader gets. `cursor` is opaque to it."""

    cursor: str
    at: datetime
    event: Happened


class ConversationFeed:
    def __init__(self, storage: Storage, notifier: Notifier, relay: Relay, clock: Clock, telemetry: Telemetry) -> None:
        self._storage = storage
        self._notifier = notifier
        self._relay = relay
        self._clock = clock
        self._telemetry = telemetry

    async def follow(
        self, user_id: str, after: str | None = None, conversation_id: str | None = None
    ) -> AsyncGenerator[FeedEvent, None]:
        """The user's events after a cursor, of one conversation or of all, until the generator is closed.

        ResyncRequired comes first without a cursor, and wherever the events after one are no longer all there.
        """
        self._telemetry.stream_opened()
        try:
            with self._relay.following_user(user_id):
                async with self._notifier.listen(user_topic(user_id)) as bell:
                    reader = Reader(self._storage, self._clock, user_id, conversation_id, after)
                    while True:
                        moved, batch = await reader.more()
                        for event in batch:
                            yield event
                        if not moved:
                            await bell.wait(LONGEST_WAIT_SECONDS)
        finally:
            self._telemetry.stream_closed()


class Reader:
    """One reader's place among the events of one user."""

    def __init__(
        self, storage: Storage, clock: Clock, user_id: str, conversation_id: str | None, after: str | None
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._user_id = user_id
        self._conversation_id = conversation_id
        self._position = position_in(user_id, after, digits=DIGITS)

    async def more(self) -> tuple[bool, list[FeedEvent]]:
        """Whether anything was new, and what of it is to be told."""
        async with self._storage.read() as work:
            if self._position is None:
                return True, [self._resync(await work.feed.newest(self._user_id))]
            newest, events = await work.feed.after(self._user_id, self._position, READ_AT_ONCE)
            last = events[-1].seq if events else newest
            if last - self._position != len(events):
                return True, [self._resync(newest)]
            self._position = last
            return bool(events), await self._told(work, events)

    def _resync(self, newest: int) -> FeedEvent:
        self._position = newest
        return FeedEvent(cursor_at(self._user_id, newest), self._clock.now(), ResyncRequired())

    async def _told(self, work: UnitOfWork, events: list[ConversationEvent]) -> list[FeedEvent]:
        """The events with what they carry. Those of conversations that are gone are left out, but not their end."""
        wanted = joined(e for e in events if self._conversation_id in (None, e.conversation_id))
        whole = [e.conversation_id for e in wanted if e.kind not in WITHOUT_CONVERSATION]
        message_ids = [e.message_id for e in wanted if e.message_id is not None]
        conversations = await work.conversations.get_many(self._user_id, sorted(set(whole))) if whole else {}
        messages = await work.messages.get_many(self._user_id, sorted(set(message_ids))) if message_ids else {}
        calls = await _calls(work, wanted, messages)
        return [
            FeedEvent(cursor_at(self._user_id, event.seq), event.at, happened)
            for event in wanted
            if (happened := _with_content(event, conversations, messages, calls)) is not None
        ]


def joined(events: Iterable[ConversationEvent]) -> list[ConversationEvent]:
    """The same events, of equal neighbours only the last: both would carry the same."""
    result: list[ConversationEvent] = []
    for event in events:
        if result and _what(result[-1]) == _what(event):
            result.pop()
        result.append(event)
    return result


def _what(event: ConversationEvent) -> tuple[Change, str, str | None, str | None]:
    return event.kind, event.conversation_id, event.message_id, event.tool_call_id


async def _calls(
    work: UnitOfWork, events: Iterable[ConversationEvent], messages: Mapping[str, Message]
) -> dict[str, ToolCall]:
    """The calls that events ask about, by id. What is stored of one is ahead of the log until its reply has ended."""
    asking = {e.message_id for e in events if e.kind is Change.TOOL_APPROVAL_REQUESTED and e.message_id in messages}
    found: dict[str, ToolCall] = {}
    for message_id in sorted(filter(None, asking)):
        shown = {part.call.id: part.call for part in messages[message_id].parts if part.call is not None}
        stored = await work.tool_calls.of(message_id)
        found |= {id_: call if call.status.ended else stored.get(id_, call) for id_, call in shown.items()}
    return found


def _with_content(
    event: ConversationEvent,
    conversations: Mapping[str, Conversation],
    messages: Mapping[str, Message],
    calls: Mapping[str, ToolCall],
) -> Happened | None:
    """None when what it would carry is gone."""
    conversation = conversations.get(event.conversation_id)
    message = messages.get(event.message_id or "")
    call = calls.get(event.tool_call_id or "")
    match event.kind:
        case Change.CONVERSATION_DELETED:
            return ConversationDeleted(event.conversation_id)
        case Change.CONVERSATION_CREATED:
            return ConversationCreated(conversation) if conversation else None
        case Change.CONVERSATION_UPDATED:
            return ConversationUpdated(conversation) if conversation else None
        case Change.MESSAGE_ADDED:
            return MessageAdded(message, conversation) if message and conversation else None
        case Change.MESSAGE_UPDATED:
            return MessageUpdated(message) if message else None
        case Change.TOOL_APPROVAL_REQUESTED:
            return ToolApprovalRequested(call, message) if call and message else None
