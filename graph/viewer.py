"""Who is asking: the viewer, with their conversations, sessions and API keys."""

from datetime import datetime

import strawberry

from domain import accounts as domain
from graph.context import Context, Info
from graph.conversations import ConversationConnection, conversation_page
from graph.models import GenerationSettings
from graph.nodes import Node
from graph.quotas import Quota

strawberry.enum(domain.AuthMethod)


@strawberry.type(description="One sign-in on one device.")
class Session:
    id: strawberry.ID
    user_agent: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime = strawberry.field(description="Unless it is refreshed before.")
    current: bool = strawberry.field(description="Whether this request belongs to it.")

    @classmethod
    def of(cls, value: domain.Session, identity: domain.Identity) -> "Session":
        return cls(
            id=strawberry.ID(value.id),
            user_agent=value.user_agent,
            created_at=value.created_at,
            last_seen_at=value.last_seen_at,
            expires_at=value.expires_at,
            current=value.id == identity.credential_id,
        )


@strawberry.type(description="A bearer token for machines. The key itself is shown once, when it is made.")
class ApiKey:
    id: strawberry.ID
    name: str
    prefix: str = strawberry.field(description="How the key begins, to know it by.")
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None

    @classmethod
    def of(cls, value: domain.ApiKey) -> "ApiKey":
        return cls(
            id=strawberry.ID(value.id),
            name=value.name,
            prefix=value.prefix,
            created_at=value.created_at,
            last_used_at=value.last_used_at,
            expires_at=value.expires_at,
        )


@strawberry.type
class Viewer(Node):
    email: str | None
    display_name: str | None
    created_at: datetime

    @classmethod
    def of(cls, user: domain.User) -> "Viewer":
        return cls(
            id=strawberry.ID(user.id), email=user.email, display_name=user.display_name, created_at=user.created_at
        )

    @strawberry.field(description="What a conversation of this viewer starts from.")
    def settings(self, info: Info) -> GenerationSettings:
        return GenerationSettings.of(info.context.services.conversations.defaults)

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

    @strawberry.field(description="What this viewer may have or use only so much of, and what is left of it.")
    async def quotas(self, info: Info) -> list[Quota]:
        return [Quota.of(quota) for quota in await info.context.services.allowances.quotas(self.id)]

    @strawberry.field(description="Where the viewer is signed in, last seen first.")
    async def sessions(self, info: Info) -> list[Session]:
        identity = info.context.identity
        found = await info.context.services.accounts.sessions(identity.user_id)
        return [Session.of(session, identity) for session in found]

    @strawberry.field(description="The viewer's API keys, newest first.")
    async def api_keys(self, info: Info) -> list[ApiKey]:
        return [ApiKey.of(key) for key in await info.context.services.accounts.api_keys(info.context.user_id)]


async def viewer_of(context: Context) -> Viewer | None:
    user = await context.services.conversations.viewer(context.user_id)
    return None if user is None else Viewer.of(user)
