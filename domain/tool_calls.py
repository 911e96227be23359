"""Calls of tools as the model made them: their states, their results, and what the model is told of them.

A call is part of a reply and never outlives it: when the reply ends, calls that have not ended are cancelled in the
same transaction. What a tool is and how one is run is in `tools.py` and `tool_running.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class ToolCallStatus(StrEnum):
    WRITING = "WRITING"
    """The model is writing the arguments."""
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset(
    {
        ToolCallStatus.SUCCEEDED,
        ToolCallStatus.FAILED,
        ToolCallStatus.DENIED,
        ToolCallStatus.EXPIRED,
        ToolCallStatus.CANCELLED,
    }
)


class ToolErrorCode(StrEnum):
    """Why a call has no result."""

    UNKNOWN_TOOL = "UNKNOWN_TOOL"
    """The model called a tool that it was not offered."""
    INVALID_ARGUMENTS = "INVALID_ARGUMENTS"
    """They are no JSON object, or do not fit the tool's schema."""
    REFUSED = "REFUSED"
    """The tool said why it cannot do this."""
    BROKEN = "BROKEN"
    """The tool failed unexpectedly; the operator finds it in the log under the call's id."""
    TIMED_OUT = "TIMED_OUT"
    UNAVAILABLE = "UNAVAILABLE"
    """The server that has the tool cannot be reached, or went away during the call."""
    INTERRUPTED = "INTERRUPTED"
    """The call had begun when it was broken off: whether it took effect is not known, and it is not repeated."""


class ToolDecision(StrEnum):
    APPROVE = "APPROVE"
    DENY = "DENY"


class ToolChoice(StrEnum):
    """AUTO: the model decides. NONE: it calls no tool. REQUIRED: it begins by calling at least one."""

    AUTO = "AUTO"
    NONE = "NONE"
    REQUIRED = "REQUIRED"


@dataclass(frozen=True, slots=True)
class ToolApproval:
    """What a user was asked, and said. `decision` is None until then, and for ever when the time has run out."""

    requested_at: datetime
    expires_at: datetime | None = None
    decided_at: datetime | None = None
    decision: ToolDecision | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call. `step` is the model's answer that it belongs to, from 1. `upstream_id` is the endpoint's own id for it.

    `arguments_text` is what the model wrote; `arguments`, None until that is whole and valid, is what the tool gets,
    which is something else where a user changed it. `result` is any JSON value.
    """

    id: str
    name: str
    step: int
    upstream_id: str = ""
    status: ToolCallStatus = ToolCallStatus.WRITING
    arguments_text: str = ""
    arguments: Mapping[str, object] | None = None
    result: object = None
    error: str | None = None
    error_code: ToolErrorCode | None = None
    approval: ToolApproval | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def told(self) -> bool:
        """Whether models are told of it: not of one that was broken off while it was being written."""
        return self.arguments is not None or self.status is ToolCallStatus.FAILED

    @property
    def prompt_id(self) -> str:
        """The id by which models are told of it."""
        return self.upstream_id or self.id

    @property
    def prompt_arguments(self) -> str:
        """The arguments as a model may read them again: valid JSON, whatever it had written."""
        return "{}" if self.arguments is None else json.dumps(self.arguments, ensure_ascii=False)

    @property
    def prompt_result(self) -> str:
        """What the model is told came of it; never empty, as some endpoints refuse that."""
        match self.status:
            case ToolCallStatus.SUCCEEDED:
                text = self.result if isinstance(self.result, str) else json.dumps(self.result, ensure_ascii=False)
                return text or '""'
            case ToolCallStatus.DENIED:
                comment = self.approval.comment if self.approval else None
                return "The user denied this call." + (f" They say: {comment}" if comment else "")
            case ToolCallStatus.EXPIRED:
                return "Nobody approved this call in time. It was not made."
            case _:
                return self.error or "This call was not made."


def cancelled(call: ToolCall, why: str = "The reply ended before this call was made.") -> ToolCall:
    """The call as the end of its reply leaves it, or `why` else it is not made; as it is when it has ended."""
    if call.status.ended:
        return call
    code = None
    if call.status is ToolCallStatus.RUNNING:
        why = "The reply ended while the tool ran; whether it took effect is not known."
        code = ToolErrorCode.INTERRUPTED
    return replace(call, status=ToolCallStatus.CANCELLED, error=why, error_code=code)


def failed(call: ToolCall, code: ToolErrorCode, message: str, at: datetime) -> ToolCall:
    return replace(call, status=ToolCallStatus.FAILED, error=message, error_code=code, finished_at=at)
