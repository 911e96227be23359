"""Calls of tools in replies, and what users are asked about them: types and resolvers."""

from datetime import datetime

import strawberry
from strawberry.scalars import JSON

from domain import tool_calls as domain
from graph.context import Info
from graph.values import shown_json

strawberry.enum(
    domain.ToolCallStatus,
    description="WRITING: the model writes the arguments. AWAITING_APPROVAL: until `resolveToolCall`. QUEUED, RUNNING, "
    "and then one that stays. EXPIRED: nobody decided in time. CANCELLED: the reply ended before.",
)
strawberry.enum(domain.ToolDecision)
strawberry.enum(
    domain.ToolErrorCode,
    description="REFUSED: the tool said why it cannot do this. BROKEN: the operator finds it in the log under the "
    "call's id. INTERRUPTED: whether it took effect is not known, and it is not repeated.",
)


@strawberry.type(description="What was asked of the user, and what they said.")
class ToolApproval:
    value: strawberry.Private[domain.ToolApproval]
    requested_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    decision: domain.ToolDecision | None

    @classmethod
    def of(cls, value: domain.ToolApproval) -> "ToolApproval":
        return cls(
            value=value,
            requested_at=value.requested_at,
            expires_at=value.expires_at,
            decided_at=value.decided_at,
            decision=value.decision,
        )

    @strawberry.field
    def comment(self, info: Info) -> str | None:
        return _text(info, self.value.comment)


@strawberry.type
class ToolCall:
    value: strawberry.Private[domain.ToolCall]
    id: strawberry.ID
    name: str
    status: domain.ToolCallStatus
    error_code: domain.ToolErrorCode | None = strawberry.field(description="Why there is no result.")
    approval: ToolApproval | None = strawberry.field(description="Null where none was needed.")
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, value: domain.ToolCall) -> "ToolCall":
        return cls(
            value=value,
            id=strawberry.ID(value.id),
            name=value.name,
            status=value.status,
            error_code=value.error_code,
            approval=None if value.approval is None else ToolApproval.of(value.approval),
            started_at=value.started_at,
            finished_at=value.finished_at,
        )

    @strawberry.field(description="Of the tool as it is now; null when it is not there any more.")
    def title(self, info: Info) -> str | None:
        tool = info.context.services.toolbox.get(self.value.name)
        return None if tool is None else tool.title or None

    @strawberry.field(description="What the tool gets. Null until complete and valid.")
    def arguments(self, info: Info) -> JSON | None:
        return shown_json(info, self.value.arguments)

    @strawberry.field(description="As the model wrote it, growing.")
    def arguments_text(self, info: Info) -> str:
        return info.context.shown(self.value.arguments_text)

    @strawberry.field
    def result(self, info: Info) -> JSON | None:
        return shown_json(info, self.value.result)

    @strawberry.field(description="What the model is told instead of a result.")
    def error(self, info: Info) -> str | None:
        return _text(info, self.value.error)


def _text(info: Info, text: str | None) -> str | None:
    return None if text is None else info.context.shown(text)
