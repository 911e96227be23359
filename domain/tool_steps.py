"""The steps of a reply: one answer of the model with the calls in it, then their results. Pure."""

from collections.abc import Iterable, Sequence

from domain.conversations import MessagePart
from domain.errors import ReplyErrorCode
from domain.replies import ReplyError, ReplyFailed
from domain.spoken import calls_in
from domain.tool_calls import ToolCall, ToolErrorCode

MAX_STEPS = 8
"""Answers of the model in one reply; the last has to do without tools."""
MISTAKES = frozenset({ToolErrorCode.UNKNOWN_TOOL, ToolErrorCode.INVALID_ARGUMENTS})


def next_step(parts: Sequence[MessagePart]) -> int:
    """The number of the answer that comes next: steps whose calls models are told of are over."""
    return 1 + max((call.step for _, call in calls_in(parts) if call.told), default=0)


def steps_in(parts: Sequence[MessagePart]) -> int:
    """How many answers of the model are in a reply."""
    last_call = max((part.index for part in parts if part.call is not None and part.call.told), default=-1)
    return next_step(parts) - 1 + any(part.index > last_call for part in parts)


def check_mistakes(calls: Iterable[ToolCall]) -> None:
    """A model may correct itself once: raises ReplyFailed when calls of two steps in a row were mistaken."""
    mistaken = {call.step: call for call in calls if call.error_code in MISTAKES}
    twice = max((step for step in mistaken if step - 1 in mistaken), default=None)
    if twice is not None:
        told = f"The model called a tool wrongly twice in a row. {mistaken[twice].error}"
        raise ReplyFailed(ReplyError(ReplyErrorCode.TOOL_FAILED, told, retryable=True))
