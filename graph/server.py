"""Who is asking, what the server offers, and any object by its id."""

from datetime import datetime
from enum import Enum

import strawberry

from domain.errors import NotFound
from graph.context import Info
from graph.conversations import Conversation, ConversationConnection, conversation_page
from graph.ids import CONVERSATION, MESSAGE, USER
from graph.messages import Message
from graph.models import GenerationSettings
from graph.nodes import Node
from graph.pagination import MAX_PAGE_SIZE
from graph.quotas import Quota

API_VERSION = "1"


@strawberry.enum
class AuthMethod(Enum):
    NONE = "NONE"


@strawberry.enum
class StreamTransport(Enum):
    GRAPHQL_TRANSPORT_WS = "GRAPHQL_TRANSPORT_WS"
    MULTIPART = "MULTIPART"
    SSE = "SSE"


@strawberry.type
class Viewer(Node):
    display_name: str | None
    created_at: datetime

    @strawberry.field(description="What a conversation of this viewer starts from.")
    def settings(self, info: Info) -> GenerationSettings:
        return GenerationSettings.of(info.context.services.conversations.defaults)

    @strawberry.field(description="What this viewer may have or use only so much of, and what is left of it.")
    async def quotas(self, info: Info) -> list[Quota]:
        return [Quota.of(quota) for quota in await info.context.services.allowances.quotas(self.id)]

    @strawberry.field
    async def conversations(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> ConversationConnection:
        return await conversation_page(info, first, after, last, before)


@strawberry.type
class ServerLimits:
    max_message_characters: int
    max_page_size: int
    stream_retention_seconds: int


@strawberry.type
class ServerInfo:
    version: str
    api_version: str
    authentication: list[AuthMethod]
    transports: list[StreamTransport]
    limits: ServerLimits


async def _viewer(info: Info) -> Viewer | None:
    user = await info.context.services.conversations.viewer(info.context.user_id)
    if user is None:
        return None
    return Viewer(id=strawberry.ID(user.id), display_name=user.display_name, created_at=user.created_at)


async def _node(info: Info, id_: str) -> Node | None:
    context = info.context
    if id_.startswith(CONVERSATION):
        try:
            return Conversation.of(await context.services.conversations.get(context.user_id, id_))
        except NotFound:
            return None
    if id_.startswith(MESSAGE):
        message = await context.messages.load(id_)
        return None if message is None else Message.of(message)
    if id_.startswith(USER) and id_ == context.user_id:
        return await _viewer(info)
    return None


@strawberry.type
class ServerQuery:
    @strawberry.field(description="Any object by its id. Null when it does not exist or is not yours.")
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:
        return await _node(info, id)

    @strawberry.field(description="Several objects by their ids, in the same order.")
    async def nodes(self, info: Info, ids: list[strawberry.ID]) -> list[Node | None]:
        return [await _node(info, id_) for id_ in ids]

    @strawberry.field(description="Who is asking. Null when nobody is signed in.")
    async def viewer(self, info: Info) -> Viewer | None:
        return await _viewer(info)

    @strawberry.field(description="Version, limits and switched-on features; readable without signing in.")
    def server(self, info: Info) -> ServerInfo:
        facts = info.context.services.facts
        return ServerInfo(
            version=facts.version,
            api_version=API_VERSION,
            authentication=[AuthMethod.NONE],
            transports=list(StreamTransport),
            limits=ServerLimits(
                max_message_characters=facts.max_message_characters,
                max_page_size=MAX_PAGE_SIZE,
                stream_retention_seconds=facts.stream_retention_seconds,
            ),
        )
