"""Conversations as trees of messages: the values. What is done with them is in `conversation_service.py`
and `reply_service.py`.

A conversation's messages form a forest: each names its parent, alternatives share one. The chosen path runs from a
root to `leaf_id`. Values are frozen; nothing here knows how they are stored or shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from domain.tool_calls import ToolCall, ToolChoice

if TYPE_CHECKING:
    from domain.replies import Reply

T = TypeVar("T")

TITLE_CHARACTERS = 60


class Role(StrEnum):
    SYSTEM = "SYSTEM"
    USER = "USER"
    ASSISTANT = "ASSISTANT"


class TitleSource(StrEnum):
    """Where a title comes from; only FIRST_WORDS is ever replaced by the server itself."""

    FIRST_WORDS = "FIRST_WORDS"
    USER = "USER"


class PartKind(StrEnum):
    TEXT = "TEXT"
    REASONING = "REASONING"
    TOOL_CALL = "TOOL_CALL"


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A stretch of content of one kind. `index` is its place in the message.

    `duration_ms` is for reasoning only. A part of the kind TOOL_CALL has a `call` and no text.
    """

    index: int
    kind: PartKind
    text: str = ""
    duration_ms: int | None = None
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class ModelParams:
    """Sampling parameters as the OpenAI API names them; None leaves the choice to the endpoint."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None

    def over(self, base: "ModelParams") -> "ModelParams":
        """These parameters, with the gaps filled from `base`."""
        if self == NO_PARAMS:
            return base
        return replace(base, **{f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None})


NO_PARAMS = ModelParams()


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Which model answers, and how. None means: as the level below says (reply over conversation over server).

    `tools` are names of tools that the model is offered.
    """

    model: str | None = None
    system_prompt: str | None = None
    params: ModelParams = field(default_factory=ModelParams)
    tools: tuple[str, ...] | None = None
    tool_choice: ToolChoice | None = None

    def over(self, base: "GenerationSettings") -> "GenerationSettings":
        return GenerationSettings(
            model=base.model if self.model is None else self.model,
            system_prompt=base.system_prompt if self.system_prompt is None else self.system_prompt,
            params=self.params.over(base.params),
            tools=base.tools if self.tools is None else self.tools,
            tool_choice=base.tool_choice if self.tool_choice is None else self.tool_choice,
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    user_id: str
    title: str
    title_source: TitleSource
    created_at: datetime
    updated_at: datetime
    last_activity_at: datetime
    settings: GenerationSettings
    metadata: Mapping[str, object]
    leaf_id: str | None

    @property
    def cursor(self) -> str:
        """Its place in the list of conversations."""
        return f"{self.last_activity_at.isoformat()}|{self.id}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `reply` is the making of it, for assistant messages that were generated here.

    While the reply is not settled, `parts` holds what has been committed so far, and `cursor` (the number of the
    last event folded into `parts`) was read in the same snapshot. `cursor` is None for messages without a reply.
    """

    id: str
    conversation_id: str
    parent_id: str | None
    role: Role
    created_at: datetime
    parts: tuple[MessagePart, ...]
    token_count: int
    metadata: Mapping[str, object]
    idempotency_key: str | None = None
    reply: "Reply | None" = None
    cursor: int | None = None

    @property
    def text(self) -> str:
        """All text parts joined; reasoning is left out."""
        return "".join(part.text for part in self.parts if part.kind is PartKind.TEXT)


class Change(StrEnum):
    """What may happen to a user's conversations, named as clients hear of it."""

    CONVERSATION_CREATED = "ConversationCreated"
    CONVERSATION_UPDATED = "ConversationUpdated"
    CONVERSATION_DELETED = "ConversationDeleted"
    MESSAGE_ADDED = "MessageAdded"
    MESSAGE_UPDATED = "MessageUpdated"
    TOOL_APPROVAL_REQUESTED = "ToolApprovalRequested"


@dataclass(frozen=True, slots=True)
class ConversationEvent:
    """Something that happened: the number `seq` of its user, from 1 without gaps, and whom it happened to.

    It carries no content: that is loaded when somebody is told.
    """

    seq: int
    at: datetime
    kind: Change
    conversation_id: str
    message_id: str | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class SeedMessage:
    """A message that was said before, elsewhere: one text per part."""

    role: Role
    texts: tuple[str, ...]
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Keyset paging, Relay's four arguments: exactly one of `first` and `last`, at most one of `after` and `before`."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    @property
    def size(self) -> int:
        return self.first if self.first is not None else (self.last or 0)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    has_next: bool
    has_previous: bool


def title_from(text: str) -> str:
    """The first words of a text, at most TITLE_CHARACTERS, cut between words where that is possible."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    head = line[: TITLE_CHARACTERS - 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head) + "…"
