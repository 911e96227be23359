"""What happens to the viewer's conversations, as a subscription: domain events to GraphQL types."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import strawberry

from domain import feed
from graph.context import Context, Info
from graph.conversations import Conversation
from graph.messages import Message
from graph.tool_calls import ToolCall


@strawberry.interface(
    description="Every event carries a cursor, also kinds added later: keep it even if you ignore the rest."
)
class ConversationEvent:
    cursor: str
    at: datetime


@strawberry.type
class ConversationCreated(ConversationEvent):
    conversation: Conversation


@strawberry.type(description="Its title was changed. What a new message changes comes with MessageAdded.")
class ConversationUpdated(ConversationEvent):
    conversation: Conversation


@strawberry.type
class ConversationDeleted(ConversationEvent):
    conversation_id: strawberry.ID


@strawberry.type(description="A message was sent, or a reply was queued.")
class MessageAdded(ConversationEvent):
    message: Message
    conversation: Conversation


@strawberry.type(description="A reply's status changed. Its text while it grows is in replyStream only.")
class MessageUpdated(ConversationEvent):
    message: Message


@strawberry.type(description="A tool call needs approval: see `resolveToolCall`. Both are as they are by now.")
class ToolApprovalRequested(ConversationEvent):
    tool_call: ToolCall
    reply: Message


@strawberry.type(description="Events before this cursor cannot be told: query again, then go on from it.")
class ResyncRequired(ConversationEvent):
    pass


EVENT_TYPES = (
    ConversationCreated,
    ConversationUpdated,
    ConversationDeleted,
    MessageAdded,
    MessageUpdated,
    ToolApprovalRequested,
    ResyncRequired,
)


def conversation_event(told: feed.FeedEvent) -> ConversationEvent:
    cursor, at = told.cursor, told.at
    match told.event:
        case feed.ConversationCreated(conversation) | feed.ConversationUpdated(conversation) as event:
            kind = ConversationCreated if isinstance(event, feed.ConversationCreated) else ConversationUpdated
            return kind(cursor=cursor, at=at, conversation=Conversation.of(conversation))
        case feed.ConversationDeleted(conversation_id):
            return ConversationDeleted(cursor=cursor, at=at, conversation_id=strawberry.ID(conversation_id))
        case feed.MessageAdded(message, conversation):
            added = Message.of(message)
            return MessageAdded(cursor=cursor, at=at, message=added, conversation=Conversation.of(conversation))
        case feed.MessageUpdated(message):
            return MessageUpdated(cursor=cursor, at=at, message=Message.of(message))
        case feed.ToolApprovalRequested(call, message):
            asking = ToolCall.of(call)
            return ToolApprovalRequested(cursor=cursor, at=at, tool_call=asking, reply=Message.of(message))
        case feed.ResyncRequired():
            return ResyncRequired(cursor=cursor, at=at)


async def _events(
    stream: AsyncGenerator[feed.FeedEvent, None], context: Context
) -> AsyncGenerator[ConversationEvent, None]:
    async with aclosing(stream):
        async for told in stream:
            context.forget()
            yield conversation_event(told)


@strawberry.type
class FeedSubscription:
    @strawberry.subscription(
        description="Everything of the viewer that changes, without text deltas: for sidebars, other tabs and "
        "devices; of one conversation if `conversationId` is given. Without `after`, or with one that is too old, a "
        "ResyncRequired with a fresh cursor comes first. Never completes."
    )
    async def conversation_events(
        self, info: Info, after: str | None = None, conversation_id: strawberry.ID | None = None
    ) -> AsyncGenerator[ConversationEvent, None]:
        context = info.context
        return _events(context.services.feed.follow(context.user_id, after, conversation_id), context)
