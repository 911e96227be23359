"""What the server offers, and any object by its id."""

from enum import Enum

import strawberry

from domain.accounts import AuthMethod
from domain.errors import NotFound
from graph.context import Info
from graph.conversations import Conversation
from graph.ids import CONVERSATION, MESSAGE, USER
from graph.messages import Message
from graph.nodes import Node
from graph.pagination import MAX_PAGE_SIZE
from graph.viewer import Viewer, viewer_of

API_VERSION = "1"


@strawberry.enum
class StreamTransport(Enum):
    GRAPHQL_TRANSPORT_WS = "GRAPHQL_TRANSPORT_WS"
    MULTIPART = "MULTIPART"
    SSE = "SSE"


@strawberry.type
class ServerLimits:
    max_message_characters: int
    max_page_size: int
    stream_retention_seconds: int


@strawberry.type
class ServerInfo:
    version: str
    api_version: str
    authentication: list[AuthMethod] = strawberry.field(
        description="How callers may show who they are: NONE means that everybody is one local user."
    )
    registration_open: bool
    transports: list[StreamTransport]
    limits: ServerLimits


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
        return await viewer_of(info.context)
    return None


@strawberry.type
class ServerQuery:
    @strawberry.field(description="Any object by its id. Null when it does not exist or is not yours.")
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:
        return await _node(info, id)

    @strawberry.field(description="Several objects by their ids, in the same order.")
    async def nodes(self, info: Info, ids: list[strawberry.ID]) -> list[Node | None]:
        found = {id_: await _node(info, id_) for id_ in dict.fromkeys(ids)}
        return [found[id_] for id_ in ids]

    @strawberry.field(description="Who is asking. Null when nobody is signed in.")
    async def viewer(self, info: Info) -> Viewer | None:
        return None if info.context.caller.identity is None else await viewer_of(info.context)

    @strawberry.field(description="Version, limits and switched-on features; readable without signing in.")
    def server(self, info: Info) -> ServerInfo:
        facts = info.context.services.facts
        return ServerInfo(
            version=facts.version,
            api_version=API_VERSION,
            authentication=list(facts.authentication),
            registration_open=facts.registration_open,
            transports=list(StreamTransport),
            limits=ServerLimits(
                max_message_characters=facts.max_message_characters,
                max_page_size=MAX_PAGE_SIZE,
                stream_retention_seconds=facts.stream_retention_seconds,
            ),
        )
