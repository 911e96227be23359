"""What resolvers are given: the domain's services, who is asking, and loaders, fresh for every operation.

A socket lives for hours and runs many operations, so nothing that ages (loaders, the viewer's rights) may hang on
the connection: each operation is executed with a fresh context in place of the connection's.
"""

from asyncio import Semaphore
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import strawberry
from strawberry.dataloader import DataLoader
from strawberry.fastapi import BaseContext

from domain.account_service import AccountService
from domain.accounts import AuthMethod, Client, Identity
from domain.approvals import ApprovalService
from domain.authentication import REVOKED, SIGN_IN, Authenticator, Watch
from domain.conversation_service import ConversationService
from domain.conversations import Conversation, Message
from domain.errors import DomainError, Unauthenticated
from domain.feed import ConversationFeed
from domain.limits import Allowances
from domain.reply_service import ReplyService, Sent
from domain.streaming import ReplyStream
from domain.task_service import TaskService
from domain.tools import Toolbox
from graph.limits import refusal

MAX_CHARACTERS = 16_000_000
"""Of what users and models have written, in one answer or event: a page of 100 messages of 100,000 fits."""
PAGES_AT_ONCE = 4
"""That one operation loads, so that not all are in memory before the first is counted."""
ChildKey = tuple[str, str | None]
Observe = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What `server` tells about this installation."""

    version: str
    max_message_characters: int
    stream_retention_seconds: int
    authentication: tuple[AuthMethod, ...] = (AuthMethod.NONE,)
    registration_open: bool = False
    refresh_cookie: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    conversations: ConversationService
    accounts: AccountService
    authenticator: Authenticator
    watch: Watch
    replies: ReplyService
    stream: ReplyStream
    feed: ConversationFeed
    allowances: Allowances
    toolbox: Toolbox
    approvals: ApprovalService
    tasks: TaskService
    facts: ServerFacts
    observe: Observe
    """Told of every operation: its root field, its type, and "ok" or "error"."""
    queued: Callable[[Sent], None]
    """Told of every reply that a request has queued, or found queued under its key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and from where. Without an identity `refusal` says why there is none.

    `stranger`: no token was shown, not even one that does not hold.
    """

    identity: Identity | None
    client: Client
    refusal: DomainError = field(default_factory=lambda: Unauthenticated(SIGN_IN))
    stranger: bool = False


class Context(BaseContext):
    def __init__(self, services: Services, caller: Caller) -> None:
        super().__init__()
        self.services = services
        self.caller = caller
        self.characters = 0  # of what is in the answer so far
        self._turns = Semaphore(PAGES_AT_ONCE)

    def shown(self, text: str) -> str:
        """The text, counted each time it is in the answer. Raises GraphQLError when that is too much."""
        self.count(len(text))
        return text

    def count(self, characters: int) -> None:
        """Raises GraphQLError."""
        self.characters += characters
        if self.characters > MAX_CHARACTERS:
            advice = " Ask for fewer messages at a time."
            raise refusal("answer is too long in characters", self.characters, MAX_CHARACTERS, advice)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """To load a page. Raises GraphQLError when the answer is too long already: it would be loaded for nothing."""
        async with self._turns:
            self.count(0)
            yield

    @property
    def identity(self) -> Identity:
        """Raises Unauthenticated, or why else nobody is known."""
        if self.caller.identity is None:
            raise self.caller.refusal
        return self.caller.identity

    @property
    def user_id(self) -> str:
        """Raises like `identity`."""
        return self.identity.user_id

    async def authorise(self) -> None:
        """Before an operation: whether the caller may still ask. Raises Unauthenticated, RateLimited, Unavailable."""
        authenticator, identity = self.services.authenticator, self.caller.identity
        await authenticator.admit(identity, self.caller.client.address)
        if identity is not None and not await authenticator.valid([identity]):
            raise Unauthenticated(REVOKED)

    def fresh(self) -> "Context":
        twin = Context(self.services, self.caller)
        twin.request, twin.response = self.request, self.response
        return twin

    def forget(self) -> None:
        """Load and count anew: each event of a subscription shows things as they are when it comes."""
        self.characters = 0
        for loader in ("messages", "children", "conversations", "active_replies"):
            self.__dict__.pop(loader, None)

    def loaded(self, messages: Sequence[Message]) -> None:
        """Spare the operation loading them once more: parents and siblings are mostly on the same page."""
        self.messages.prime_many({message.id: message for message in messages})

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
    def conversations(self) -> DataLoader[str, Conversation | None]:
        async def load(ids: list[str]) -> list[Conversation | None]:
            found = await self.services.conversations.many(self.user_id, ids)
            return [found.get(conversation_id) for conversation_id in ids]

        return DataLoader(load)

    @cached_property
    def active_replies(self) -> DataLoader[str, list[Message]]:
        """By their conversations."""

        async def load(ids: list[str]) -> list[list[Message]]:
            found = await self.services.conversations.active_replies(self.user_id, ids)
            return [found[conversation_id] for conversation_id in ids]

        return DataLoader(load)


Info = strawberry.Info[Context, Any]
