"""Messages, their parts, and how they were made: types and resolvers."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from strawberry.scalars import JSON

from domain import conversations as domain
from domain import replies
from domain.conversations import PartKind, Role
from domain.errors import NotFound, ReplyErrorCode
from domain.streaming import cursor_at
from domain.tool_steps import steps_in
from graph.context import Info
from graph.ids import encode_cursor, part_id
from graph.models import ModelParams
from graph.nodes import Node
from graph.pagination import MAX_PAGE_SIZE, PageInfo, page_info
from graph.tool_calls import ToolCall
from graph.values import shown_json

if TYPE_CHECKING:
    from graph.conversations import Conversation

strawberry.enum(Role, name="MessageRole")
strawberry.enum(
    replies.ReplyStatus,
    name="MessageStatus",
    description="AWAITING_APPROVAL: until `resolveToolCall` for each tool call that waits. COMPLETE, STOPPED and "
    "FAILED stay.",
)
strawberry.enum(replies.FinishReason)
strawberry.enum(ReplyErrorCode)


@strawberry.interface
class MessagePart:
    id: strawberry.ID = strawberry.field(description="Unique everywhere, so caches can keep parts apart.")
    index: int


@strawberry.type
class TextPart(MessagePart):
    value: strawberry.Private[domain.MessagePart]

    @strawberry.field
    def text(self, info: Info) -> str:
        return info.context.shown(self.value.text)


@strawberry.type
class ReasoningPart(MessagePart):
    value: strawberry.Private[domain.MessagePart]

    @strawberry.field
    def text(self, info: Info) -> str:
        return info.context.shown(self.value.text)

    @strawberry.field
    def duration_ms(self) -> int | None:
        return self.value.duration_ms


@strawberry.type
class ToolCallPart(MessagePart):
    tool_call: ToolCall


def part_of(message_id: str, part: domain.MessagePart) -> MessagePart:
    id_ = strawberry.ID(part_id(message_id, part.index))
    if part.call is not None:
        return ToolCallPart(id=id_, index=part.index, tool_call=ToolCall.of(part.call))
    if part.kind is PartKind.REASONING:
        return ReasoningPart(id=id_, index=part.index, value=part)
    return TextPart(id=id_, index=part.index, value=part)


@strawberry.type
class ReplyError:
    code: ReplyErrorCode
    message: str = strawberry.field(description="English, safe to show.")
    retryable: bool
    retry_after_ms: int | None


@strawberry.type
class Usage:
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    estimated: bool = strawberry.field(description="True when counted here because the provider did not say.")

    @classmethod
    def of(cls, value: replies.Usage) -> "Usage":
        return cls(
            input_tokens=value.input_tokens,
            output_tokens=value.output_tokens,
            total_tokens=value.total_tokens,
            cached_input_tokens=value.cached_input_tokens,
            reasoning_tokens=value.reasoning_tokens,
            estimated=value.estimated,
        )


@strawberry.type
class Generation:
    model: str
    response_model: str | None = strawberry.field(description="The model name the provider answered with.")
    params: ModelParams
    finish_reason: replies.FinishReason | None
    error: ReplyError | None
    usage: Usage | None
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    attempts: int = strawberry.field(description="How often a worker took it up: 1 when nothing went wrong.")
    requests: int = strawberry.field(description="Requests made to the provider, retries and steps included.")
    steps: int = strawberry.field(
        description="Answers of the model in this reply: one more after each with tool calls."
    )
    completion_id: str | None = strawberry.field(description="The provider's own id of the completion.")
    request_id: str | None = strawberry.field(description="For the provider's support.")

    @classmethod
    def of(cls, value: replies.Reply, parts: Sequence[domain.MessagePart]) -> "Generation":
        error = value.error
        return cls(
            model=value.model,
            response_model=value.response_model,
            params=ModelParams.of(value.settings.params),
            finish_reason=value.finish_reason,
            error=None
            if error is None
            else ReplyError(
                code=error.code,
                message=error.message,
                retryable=error.retryable,
                retry_after_ms=error.retry_after_ms,
            ),
            usage=None if value.usage is None else Usage.of(value.usage),
            queued_at=value.queued_at,
            started_at=value.started_at,
            first_token_at=value.first_token_at,
            finished_at=value.finished_at,
            attempts=value.attempt,
            requests=value.requests,
            steps=steps_in(parts),
            completion_id=value.completion_id,
            request_id=value.request_id,
        )


@strawberry.type
class Message(Node):
    value: strawberry.Private[domain.Message]
    role: Role
    created_at: datetime
    token_count: int = strawberry.field(description="Tokens of this message as the prompt builder counts them.")
    idempotency_key: str | None = strawberry.field(
        description="The key the client sent with it, to match optimistic copies."
    )

    @classmethod
    def of(cls, value: domain.Message) -> "Message":
        return cls(
            id=strawberry.ID(value.id),
            value=value,
            role=value.role,
            created_at=value.created_at,
            token_count=value.token_count,
            idempotency_key=value.idempotency_key,
        )

    @strawberry.field
    def metadata(self, info: Info) -> JSON:
        return shown_json(info, self.value.metadata)

    @strawberry.field
    def status(self) -> replies.ReplyStatus:
        reply = self.value.reply
        return replies.ReplyStatus.COMPLETE if reply is None else reply.status

    @strawberry.field(description="Content in order. Grows until the reply has ended.")
    def parts(self) -> list[MessagePart]:
        return [part_of(self.value.id, part) for part in self.value.parts]

    @strawberry.field(description="All text parts joined; the short way in.")
    def text(self, info: Info) -> str:
        return info.context.shown(self.value.text)

    @strawberry.field(
        description="Everything up to this point of the stream is in `parts`; pass it to replyStream(after:)."
    )
    def stream_cursor(self) -> str | None:
        return None if self.value.cursor is None else cursor_at(self.value.id, self.value.cursor)

    @strawberry.field(description="How it was made; null for messages that were not generated here.")
    def generation(self) -> Generation | None:
        return None if self.value.reply is None else Generation.of(self.value.reply, self.value.parts)

    @strawberry.field
    async def conversation(self, info: Info) -> Annotated["Conversation", strawberry.lazy("graph.conversations")]:
        from graph.conversations import Conversation

        found = await info.context.conversations.load(self.value.conversation_id)
        if found is None:
            raise NotFound("conversation", self.value.conversation_id, "conversationId")
        return Conversation.of(found)

    @strawberry.field
    async def parent(self, info: Info) -> "Message | None":
        if self.value.parent_id is None:
            return None
        parent = await info.context.messages.load(self.value.parent_id)
        return None if parent is None else Message.of(parent)

    @strawberry.field(
        description="Alternatives at this place (edits, regenerations), oldest first, this one included; of more than "
        "100 those around this one."
    )
    async def siblings(self, info: Info) -> list["Message"]:
        ids = await self._sibling_ids(info)
        start = max(0, min(ids.index(self.value.id) - MAX_PAGE_SIZE // 2, len(ids) - MAX_PAGE_SIZE))
        return await _load(info, ids[start : start + MAX_PAGE_SIZE])

    @strawberry.field
    async def sibling_index(self, info: Info) -> int:
        return (await self._sibling_ids(info)).index(self.value.id)

    @strawberry.field(description="What answers it, oldest first; the first 100.")
    async def children(self, info: Info) -> list["Message"]:
        ids = await info.context.children.load((self.value.conversation_id, self.value.id))
        return await _load(info, ids[:MAX_PAGE_SIZE])

    async def _sibling_ids(self, info: Info) -> list[str]:
        return await info.context.children.load((self.value.conversation_id, self.value.parent_id))


async def _load(info: Info, ids: list[str]) -> list[Message]:
    found = await info.context.messages.load_many(ids)
    return [Message.of(value) for value in found if value is not None]


@strawberry.type
class MessageEdge:
    cursor: str
    node: Message


@strawberry.type
class MessageConnection:
    edges: list[MessageEdge]
    page_info: PageInfo

    @strawberry.field
    def nodes(self) -> list[Message]:
        return [edge.node for edge in self.edges]

    @classmethod
    def of(cls, page: domain.Page[domain.Message]) -> "MessageConnection":
        edges = [MessageEdge(cursor=encode_cursor(value.id), node=Message.of(value)) for value in page.items]
        info = page_info([edge.cursor for edge in edges], has_next=page.has_next, has_previous=page.has_previous)
        return cls(edges=edges, page_info=info)
