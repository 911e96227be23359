"""Conversations: types, queries and mutations."""

from datetime import datetime

import strawberry
from strawberry.scalars import JSON

from domain import conversations as domain
from domain.conversations import SeedMessage
from domain.errors import DomainError, InvalidInput
from domain.inputs import CreateConversation
from graph.context import Info
from graph.errors import UserError, user_error
from graph.ids import encode_cursor
from graph.messages import Message, MessageConnection
from graph.models import GenerationSettings, GenerationSettingsInput, settings_from
from graph.nodes import Node
from graph.pagination import PageInfo, page_info, page_request
from graph.values import shown_json

strawberry.enum(domain.TitleSource)
CONVERSATIONS_PER_PAGE = 30
MESSAGES_PER_PAGE = 50


@strawberry.type
class Conversation(Node):
    value: strawberry.Private[domain.Conversation]
    title: str = strawberry.field(description="The first words of the conversation until the user gives a better one.")
    title_source: domain.TitleSource
    created_at: datetime
    updated_at: datetime
    last_activity_at: datetime = strawberry.field(description="Last message sent or finished; what sidebars sort by.")
    settings: GenerationSettings

    @classmethod
    def of(cls, value: domain.Conversation) -> "Conversation":
        return cls(
            id=strawberry.ID(value.id),
            value=value,
            title=value.title,
            title_source=value.title_source,
            created_at=value.created_at,
            updated_at=value.updated_at,
            last_activity_at=value.last_activity_at,
            settings=GenerationSettings.of(value.settings),
        )

    @strawberry.field
    def metadata(self, info: Info) -> JSON:
        return shown_json(info, self.value.metadata)

    @strawberry.field(
        description="The chosen path, oldest first; its newest messages when neither `first` nor `last` is given. "
        "`leafId` reads another branch without choosing it."
    )
    async def messages(
        self,
        info: Info,
        leaf_id: strawberry.ID | None = None,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> MessageConnection:
        request = page_request(first, after, last, before, default=MESSAGES_PER_PAGE, newest=True)
        service = info.context.services.conversations
        async with info.context.turn():
            page = await service.path(info.context.user_id, self.value.id, leaf_id, request)
        info.context.loaded(page.items)
        return MessageConnection.of(page)

    @strawberry.field(description="Every message of every branch, oldest first, for export and tree views.")
    async def all_messages(self, info: Info, first: int | None = 100, after: str | None = None) -> MessageConnection:
        request = page_request(first, after, None, None, default=100)
        service = info.context.services.conversations
        async with info.context.turn():
            page = await service.all_messages(info.context.user_id, self.value.id, request)
        info.context.loaded(page.items)
        return MessageConnection.of(page)

    @strawberry.field(description="End of the chosen path.")
    async def leaf(self, info: Info) -> Message | None:
        if self.value.leaf_id is None:
            return None
        leaf = await info.context.messages.load(self.value.leaf_id)
        return None if leaf is None else Message.of(leaf)

    @strawberry.field(description="Replies now being made.")
    async def active_replies(self, info: Info) -> list[Message]:
        return [Message.of(value) for value in await info.context.active_replies.load(self.value.id)]


@strawberry.type
class ConversationEdge:
    cursor: str
    node: Conversation


@strawberry.type
class ConversationConnection:
    edges: list[ConversationEdge]
    page_info: PageInfo

    @strawberry.field
    def nodes(self) -> list[Conversation]:
        return [edge.node for edge in self.edges]

    @strawberry.field
    async def total_count(self, info: Info) -> int:
        return await info.context.services.conversations.count(info.context.user_id)

    @classmethod
    def of(cls, page: domain.Page[domain.Conversation]) -> "ConversationConnection":
        edges = [
            ConversationEdge(cursor=encode_cursor(value.cursor), node=Conversation.of(value)) for value in page.items
        ]
        info = page_info([edge.cursor for edge in edges], has_next=page.has_next, has_previous=page.has_previous)
        return cls(edges=edges, page_info=info)


async def conversation_page(
    info: Info, first: int | None, after: str | None, last: int | None, before: str | None
) -> ConversationConnection:
    request = page_request(first, after, last, before, default=CONVERSATIONS_PER_PAGE)
    page = await info.context.services.conversations.page(info.context.user_id, request)
    return ConversationConnection.of(page)


@strawberry.input(one_of=True, description="One part of an earlier message.")
class SeedPartInput:
    text: strawberry.Maybe[str]


@strawberry.input(description="A message that was said before: text, or parts where it has several.")
class SeedMessageInput:
    role: domain.Role
    text: str | None = None
    parts: list[SeedPartInput] | None = None
    created_at: datetime | None = None

    def to_domain(self, index: int) -> SeedMessage:
        if self.text is not None and self.parts is not None:
            raise InvalidInput("Give either `text` or `parts`, not both.", "history", str(index))
        if self.text is not None:
            return SeedMessage(self.role, (self.text,), self.created_at)
        texts = tuple(part.text.value for part in self.parts or () if part.text is not None)
        return SeedMessage(self.role, texts, self.created_at)


def seeds_from(history: list[SeedMessageInput] | None) -> tuple[SeedMessage, ...]:
    return tuple(seed.to_domain(index) for index, seed in enumerate(history or ()))


def metadata_from(value: JSON | None) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("Metadata is a JSON object.", "metadata")
    return value


@strawberry.interface
class MutationPayload:
    errors: list[UserError]


@strawberry.input
class CreateConversationInput:
    title: str | None = None
    settings: GenerationSettingsInput | None = None
    history: list[SeedMessageInput] | None = strawberry.field(
        default=None, description="What was said before, oldest first; a system message becomes the system prompt."
    )
    metadata: JSON | None = None
    idempotency_key: str | None = None


@strawberry.type
class CreateConversationPayload(MutationPayload):
    conversation: Conversation | None = None
    replayed: bool = strawberry.field(default=False, description="True when the key had been used before.")


@strawberry.input
class RenameConversationInput:
    conversation_id: strawberry.ID
    title: str | None = strawberry.field(default=None, description="Null lets the server find one.")


@strawberry.input
class DeleteConversationInput:
    conversation_id: strawberry.ID


@strawberry.type
class UpdateConversationPayload(MutationPayload):
    conversation: Conversation | None = None


@strawberry.type
class DeletePayload(MutationPayload):
    deleted_id: strawberry.ID | None = None


@strawberry.type
class ConversationQuery:
    @strawberry.field(description="The viewer's conversations, newest activity first.")
    async def conversations(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> ConversationConnection:
        return await conversation_page(info, first, after, last, before)

    @strawberry.field(description="Null when it does not exist or is not yours.")
    async def conversation(self, info: Info, id: strawberry.ID) -> Conversation | None:
        found = await info.context.conversations.load(id)
        return None if found is None else Conversation.of(found)

    @strawberry.field(description="Null when it does not exist or is not yours.")
    async def message(self, info: Info, id: strawberry.ID) -> Message | None:
        found = await info.context.messages.load(id)
        return None if found is None else Message.of(found)


@strawberry.type
class ConversationMutation:
    @strawberry.mutation
    async def create_conversation(self, info: Info, input: CreateConversationInput) -> CreateConversationPayload:
        service, user_id = info.context.services.conversations, info.context.user_id
        try:
            command = CreateConversation(
                title=input.title,
                settings=settings_from(input.settings),
                history=seeds_from(input.history),
                metadata=metadata_from(input.metadata),
                idempotency_key=input.idempotency_key,
            )
            conversation_id, replayed = await service.create(user_id, command)
            conversation = Conversation.of(await service.get(user_id, conversation_id))
        except DomainError as error:
            return CreateConversationPayload(errors=[user_error(error)])
        return CreateConversationPayload(conversation=conversation, replayed=replayed, errors=[])

    @strawberry.mutation
    async def rename_conversation(self, info: Info, input: RenameConversationInput) -> UpdateConversationPayload:
        service, user_id = info.context.services.conversations, info.context.user_id
        try:
            await service.rename(user_id, input.conversation_id, input.title)
            conversation = Conversation.of(await service.get(user_id, input.conversation_id))
        except DomainError as error:
            return UpdateConversationPayload(errors=[user_error(error)])
        return UpdateConversationPayload(conversation=conversation, errors=[])

    @strawberry.mutation(description="Its live replies stop, and their streams end.")
    async def delete_conversation(self, info: Info, input: DeleteConversationInput) -> DeletePayload:
        try:
            await info.context.services.conversations.delete(info.context.user_id, input.conversation_id)
        except DomainError as error:
            return DeletePayload(errors=[user_error(error)])
        return DeletePayload(deleted_id=input.conversation_id, errors=[])
