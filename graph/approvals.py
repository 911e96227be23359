"""Deciding on tool calls that wait for it: input, payload and mutation."""

import strawberry
from strawberry.scalars import JSON

from domain.errors import DomainError, InvalidInput
from domain.inputs import ResolveToolCall
from domain.tool_calls import ToolDecision
from graph.context import Info
from graph.conversations import MutationPayload
from graph.errors import user_error
from graph.messages import Message
from graph.tool_calls import ToolCall


@strawberry.input
class ResolveToolCallInput:
    tool_call_id: strawberry.ID
    decision: ToolDecision
    comment: str | None = strawberry.field(default=None, description="The model is told it with a denial.")
    arguments: JSON | None = strawberry.field(default=None, description="Changed arguments to run with instead.")
    remember: bool | None = strawberry.field(
        default=False, description="Do not ask again for this tool in this conversation."
    )


@strawberry.type
class ResolveToolCallPayload(MutationPayload):
    tool_call: ToolCall | None = strawberry.field(
        default=None, description="As the decision has left it, which `reply` may show a moment later."
    )
    reply: Message | None = None


@strawberry.type
class ApprovalMutation:
    @strawberry.mutation(
        description="Approves or denies a tool call that awaits approval. Of several decisions the first counts; the "
        "same one again is harmless. When nothing of a reply waits any more, the reply goes on."
    )
    async def resolve_tool_call(self, info: Info, input: ResolveToolCallInput) -> ResolveToolCallPayload:
        services, user_id = info.context.services, info.context.user_id
        try:
            command = ResolveToolCall(
                tool_call_id=input.tool_call_id,
                decision=input.decision,
                comment=input.comment,
                arguments=_arguments(input.arguments),
                remember=bool(input.remember),
            )
            resolved = await services.approvals.resolve(user_id, command)
            reply = await services.conversations.message(user_id, resolved.reply_id)
        except DomainError as error:
            return ResolveToolCallPayload(errors=[user_error(error)])
        return ResolveToolCallPayload(tool_call=ToolCall.of(resolved.call), reply=Message.of(reply), errors=[])


def _arguments(value: JSON | None) -> dict[str, object] | None:
    if value is not None and not isinstance(value, dict):
        raise InvalidInput("Arguments are a JSON object.", "arguments")
    return value
