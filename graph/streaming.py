"""The reply stream as a subscription: domain events to GraphQL types."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import strawberry

from domain import events
from domain.conversations import MessagePart as DomainPart
from domain.replies import ReplyStatus
from domain.streaming import ArgumentsWritten, Ended, Snapshot, StreamedEvent
from graph.context import Context, Info
from graph.ids import part_id
from graph.lanes import LANE, Lane
from graph.messages import Message, MessagePart, part_of
from graph.tool_calls import ToolCall


@strawberry.interface(
    description="Every event carries a cursor, also kinds added later: keep it even if you ignore the rest."
)
class ReplyEvent:
    cursor: str


@strawberry.type(description="State so far; replaces what the client holds.")
class ReplySnapshot(ReplyEvent):
    reply: Message


@strawberry.type
class ReplyStatusChanged(ReplyEvent):
    status: ReplyStatus


@strawberry.type(description="A part begins; its text, or the arguments of its tool call, follow in deltas.")
class PartAdded(ReplyEvent):
    part: MessagePart


@strawberry.type(description="Append to the TextPart or ReasoningPart with this id.")
class TextDelta(ReplyEvent):
    part_id: strawberry.ID
    text: str


@strawberry.type(description="Append to `argumentsText` of the tool call with this id.")
class ToolCallArgumentsDelta(ReplyEvent):
    part_id: strawberry.ID
    tool_call_id: strawberry.ID
    arguments_text: str


@strawberry.type(description="Replaces the tool call of the ToolCallPart with this id.")
class ToolCallChanged(ReplyEvent):
    part_id: strawberry.ID
    tool_call: ToolCall


@strawberry.type(description="The model is asked again; the text so far stays.")
class ReplyRetrying(ReplyEvent):
    attempt: int
    delay_ms: int


@strawberry.type(description="Last event: complete, stopped or failed. `reply` is final and safe to cache.")
class ReplyFinished(ReplyEvent):
    reply: Message


EVENT_TYPES = (
    ReplySnapshot,
    ReplyStatusChanged,
    PartAdded,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallChanged,
    ReplyRetrying,
    ReplyFinished,
)


def reply_event(streamed: StreamedEvent) -> ReplyEvent:
    cursor = streamed.cursor
    match streamed.event:
        case events.TextDelta(index, text):
            return TextDelta(cursor=cursor, part_id=_part_id(streamed, index), text=text)
        case events.StatusChanged(status):
            return ReplyStatusChanged(cursor=cursor, status=status)
        case events.Retrying(attempt, delay_ms):
            return ReplyRetrying(cursor=cursor, attempt=attempt, delay_ms=delay_ms)
        case Snapshot(message):
            return ReplySnapshot(cursor=cursor, reply=Message.of(message))
        case Ended(message):
            return ReplyFinished(cursor=cursor, reply=Message.of(message))
        case events.PartAdded() | ArgumentsWritten() | events.ToolCallChanged() as event:
            return _part_event(streamed, event)


def _part_event(
    streamed: StreamedEvent, event: events.PartAdded | ArgumentsWritten | events.ToolCallChanged
) -> ReplyEvent:
    cursor, part_id = streamed.cursor, _part_id(streamed, event.index)
    match event:
        case events.PartAdded(index, kind, call):
            return PartAdded(cursor=cursor, part=part_of(streamed.reply_id, DomainPart(index, kind, call=call)))
        case ArgumentsWritten(_, id_, text):
            call_id = strawberry.ID(id_)
            return ToolCallArgumentsDelta(cursor=cursor, part_id=part_id, tool_call_id=call_id, arguments_text=text)
        case events.ToolCallChanged(_, changed):
            return ToolCallChanged(cursor=cursor, part_id=part_id, tool_call=ToolCall.of(changed))


def _part_id(streamed: StreamedEvent, index: int) -> strawberry.ID:
    return strawberry.ID(part_id(streamed.reply_id, index))


async def _reply_events(
    stream: AsyncGenerator[StreamedEvent, None], context: Context
) -> AsyncGenerator[ReplyEvent, None]:
    async with aclosing(stream):
        async for streamed in stream:
            context.forget()
            yield reply_event(streamed)


def _shown_at_once(lane: Lane, streamed: StreamedEvent) -> bool:
    return lane.show(reply_event(streamed))


@strawberry.type
class Subscription:
    @strawberry.subscription(
        description="One reply, live. Completes by itself after a terminal event. Without `after` the first event is "
        "a ReplySnapshot of everything so far. With `after` only later events come; if that point cannot be served, "
        "a ReplySnapshot comes first and replaces what the client holds. Text once shown is never taken back. "
        "Neighbouring deltas are joined for slow readers."
    )
    async def reply_stream(
        self, info: Info, reply_id: strawberry.ID, after: str | None = None
    ) -> AsyncGenerator[ReplyEvent, None]:
        lane = LANE.get()
        push = None if lane is None else partial(_shown_at_once, lane)
        stream = await info.context.services.stream.follow(info.context.user_id, reply_id, after, push)
        return _reply_events(stream, info.context)
