"""Where a reply that calls tools stands, by what its reader has seen and by the marks that its tools have left."""

from collections.abc import Sequence
from enum import StrEnum

from tests.system.effects import Marks, Stage
from tests.system.tool_load import ToolTalk
from tests.system.tool_scripts import STEPS
from tests.system.tool_watching import ENDED, Call, ToolWatcher


class Phase(StrEnum):
    BEGINNING = "before the first text"
    TEXT = "text before calls"
    ARGUMENTS = "arguments"
    STARTED = "tool started"
    EFFECT = "effect without result"
    TRANSACTION = "in the tool's transaction"
    RAN = "other moments of a step"
    BETWEEN = "between steps"
    WAITING = "awaiting approval"
    DECIDING = "in resolveToolCall"
    FINAL = "final text"


def phase_of(made: ToolTalk, marks: Marks) -> Phase | None:
    """None when the reply has ended."""
    watcher = made.watcher
    if watcher.final is not None:
        return None
    if made.asking is not None:
        return Phase.DECIDING
    if watcher.status == "AWAITING_APPROVAL":
        return Phase.WAITING
    open_ = [call for call in watcher.calls if call["status"] not in ENDED]
    if open_:
        return _of_calls(open_, marks)
    return _of_text(watcher)


def _of_calls(calls: Sequence[Call], marks: Marks) -> Phase:
    """Of several at once the one that is the most dangerous to break off."""
    stages = {marks.stages.get(call["id"]) for call in calls}
    names = {call["name"] for call in calls if marks.stages.get(call["id"]) is Stage.BEGAN}
    if Stage.WROTE in stages:
        return Phase.TRANSACTION
    if Stage.EFFECT in stages:
        return Phase.EFFECT
    if names & {"book", "reserve"}:
        return Phase.STARTED
    if any(call["status"] == "WRITING" for call in calls):
        return Phase.ARGUMENTS
    return Phase.RAN


def _of_text(watcher: ToolWatcher) -> Phase:
    parts = list(watcher.parts.values())
    if not parts:
        return Phase.BEGINNING
    if parts[-1]["__typename"] == "ToolCallPart":
        return Phase.BETWEEN
    made = [call for call in watcher.calls if call["status"] != "CANCELLED"]
    return Phase.FINAL if len(made) > STEPS else Phase.TEXT
