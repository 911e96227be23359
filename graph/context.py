"""What resolvers are given: the domain's services, who is asking, and loaders, fresh for every operation.

A socket lives for hours and runs many operations, so nothing that ages (loaders, the viewer's rights) may hang on
the connection: `OperationExtension` in `schema.py` replaces the connection's context with a fresh one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import strawberry
from strawberry.dataloader import DataLoader
from strawberry.fastapi import BaseContext

from domain.conversation_service import ConversationService
from domain.conversations import Conversation, Message
from domain.feed import ConversationFeed
from domain.limits import Allowances
from domain.reply_service import ReplyService, Sent
from domain.streaming import ReplyStream

ChildKey = tuple[str, str | None]
Observe = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What `server` tells about this installation."""

    version: str
    max_message_characters: int
    stream_retention_seconds: int


@dataclass(frozen=True, slots=True)
class Services:
    conversations: ConversationService
    replies: ReplyService
    stream: ReplyStream
    feed: ConversationFeed
    allowances: Allowances
    facts: ServerFacts
    observe: Observe
    """Told of every operation: its root field, its type, and "ok" or "error"."""
    queued: Callable[[Sent], None]
    """Told of every reply that a request has queued, or found queued under its key."""


class Context(BaseContext):
    def __init__(self, services: Services, user_id: str) -> None:
        super().__init__()
        self.services = services
        self.user_id = user_id

    def fresh(self) -> "Context":
        twin = Context(self.services, self.user_id)
        twin.request, twin.response = self.request, self.response
        return twin

    def forget(self) -> None:
        """Load anew from now on: each event of a subscription shows things as they are when it comes."""
        for loader in ("messages", "children", "conversations"):
            self.__dict__.pop(loader, None)

    @cached_property
    def messages(self) -> DataLoader[str, Message | None]:
        async def load(ids: list[str]) -> list[Message | None]:
            found = await self.services.conversations.messages(self.user_id, ids)
            return [found.get(message_id) for message_id in ids]

        return DataLoader(load)

    @cached_property
    def children(self) -> DataLoader[ChildKey, list[str]]:
        """Ids of the messages under a (conversation, parent)."""

        async def load(keys: list[ChildKey]) -> list[list[str]]:
            found = await self.services.conversations.children(keys)
            return [found[key] for key in keys]

        return DataLoader(load)

    @cached_property
    def conversations(self) -> DataLoader[str, Conversation]:
        async def load(ids: list[str]) -> list[Conversation]:
            return [await self.services.conversations.get(self.user_id, conversation_id) for conversation_id in ids]

        return DataLoader(load)


Info = strawberry.Info[Context, Any]
