"""Decisions on tool calls that wait for their user's consent, from any device and in any process.

A decision is one unit of work: the call, its conversation and its reply are held, the decision is stored, committed,
and only then the bell is rung. Running the call is the worker's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from domain.errors import Conflict, InvalidInput, NotFound
from domain.inputs import ResolveToolCall, Rules
from domain.ports import Clock, Notifier
from domain.storage import Storage
from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus, ToolDecision
from domain.tool_results import MESSAGE_CHARACTERS, cut
from domain.tool_storage import StoredCall
from domain.tools import Toolbox
from domain.topics import QUEUE, reply_topic, user_topic

EXPIRED_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Resolved:
    """A call as its decision has left it; the reply's log may be told of it a moment later."""

    call: ToolCall
    reply_id: str


class ApprovalService:
    def __init__(self, storage: Storage, notifier: Notifier, toolbox: Toolbox, clock: Clock, rules: Rules) -> None:
        self._storage = storage
        self._notifier = notifier
        self._toolbox = toolbox
        self._clock = clock
        self._rules = rules

    async def resolve(self, user_id: str, command: ResolveToolCall) -> Resolved:
        """Approve or deny a call. Of several decisions at once the first counts.

        The same decision again is harmless, and answers with the call as it is by now. Raises NotFound, InvalidInput,
        and Conflict where the call does not wait for this decision any more.
        """
        self._rules.decision(command)
        async with self._storage.write() as work:
            stored = await work.tool_calls.get(user_id, command.tool_call_id)
            if stored is None:
                raise NotFound("tool call", command.tool_call_id, "toolCallId")
            if _repeats(command, stored.call):
                return Resolved(stored.call, stored.reply_id)
            now = self._clock.now()
            _check_waits(stored, command.decision, now)
            if command.arguments is not None:
                self._check_arguments(stored.call, command.arguments)
            decided = _decided(stored.call, command, now)
            await work.tool_calls.decide(stored, decided)
            if command.remember:
                await work.tool_calls.allow(stored.conversation_id, decided.name)
            await work.commit()
        self._notifier.ring(QUEUE, reply_topic(stored.reply_id), user_topic(user_id))
        return Resolved(decided, stored.reply_id)

    async def expire(self) -> int:
        """Close calls that nobody decided on in time, some at a time. Returns how many."""
        now = self._clock.now()
        async with self._storage.write() as work:
            expired = await work.tool_calls.expired(EXPIRED_AT_ONCE)
            for stored in expired:
                call = replace(stored.call, status=ToolCallStatus.EXPIRED, finished_at=now)
                await work.tool_calls.decide(stored, call)
            await work.commit()
        if expired:
            of_replies = {reply_topic(stored.reply_id) for stored in expired}
            self._notifier.ring(QUEUE, *of_replies, *{user_topic(stored.user_id) for stored in expired})
        return len(expired)

    def _check_arguments(self, call: ToolCall, arguments: Mapping[str, object]) -> None:
        tool = self._toolbox.get(call.name)
        if tool is None:
            raise Conflict(f"The tool {call.name} is not there now: its arguments cannot be changed.", "arguments")
        if (wrong := tool.check(arguments)) is not None:
            told = cut(wrong.rstrip("."), MESSAGE_CHARACTERS)
            raise InvalidInput(f"The arguments do not fit: {told}.", "arguments")


def _repeats(command: ResolveToolCall, call: ToolCall) -> bool:
    """Whether the call was decided on in this way before."""
    if call.approval is None or call.approval.decision is not command.decision:
        return False
    return command.arguments is None or command.arguments == call.arguments


def _check_waits(stored: StoredCall, wanted: ToolDecision, now: datetime) -> None:
    """Raises Conflict that says how the call stands."""
    call, approval = stored.call, stored.call.approval
    if approval is None:
        raise Conflict("This call needs no approval.", "toolCallId")
    if approval.decision is not None:
        said = "approved" if approval.decision is ToolDecision.APPROVE else "denied"
        how = ", with other arguments" if approval.decision is wanted else ""
        raise Conflict(f"This call was {said} before{how}.", "toolCallId")
    if call.status is ToolCallStatus.EXPIRED or _is_over(approval, now):
        raise Conflict("The time to decide on this call is over.", "toolCallId")
    if stored.reply_status.settled or call.status is not ToolCallStatus.AWAITING_APPROVAL:
        raise Conflict("The reply ended before this call was decided on.", "toolCallId")


def _is_over(approval: ToolApproval, now: datetime) -> bool:
    return approval.expires_at is not None and approval.expires_at <= now


def _decided(call: ToolCall, command: ResolveToolCall, now: datetime) -> ToolCall:
    assert call.approval is not None
    approval = replace(call.approval, decided_at=now, decision=command.decision, comment=command.comment)
    if command.decision is ToolDecision.DENY:
        return replace(call, status=ToolCallStatus.DENIED, approval=approval, finished_at=now)
    arguments = call.arguments if command.arguments is None else command.arguments
    return replace(call, status=ToolCallStatus.QUEUED, approval=approval, arguments=arguments)
