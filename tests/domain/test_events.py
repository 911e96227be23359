"""The laws of the log: joining changes no fold, and a fold can be cut anywhere."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from domain.conversations import PartKind
from domain.events import (
    ArgumentsDelta,
    Delta,
    Finished,
    Folder,
    LoggedEvent,
    PartAdded,
    ReplyEvent,
    Retrying,
    StatusChanged,
    TextDelta,
    ToolCallChanged,
    fold,
    joined,
)
from domain.replies import ReplyStatus
from domain.tool_calls import ToolCall, ToolCallStatus

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
EVENTS = ["part", "text", "text", "text", "change", "status", "retry", "attempt"]


def call_in(part: int) -> ToolCall:
    return ToolCall(f"call_{part}", "look", step=1)


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedEvent]:
    """Any log a writer could have made: parts numbered as they come, rising attempts, other events between."""
    kinds: list[PartKind] = []
    attempt = 1
    logged: list[LoggedEvent] = []
    for _ in range(draw(st.integers(0, 30))):
        choice = draw(st.sampled_from(EVENTS))
        if choice == "attempt":
            attempt += 1
            continue
        event = draw(_events(choice, kinds, attempt))
        if isinstance(event, PartAdded):
            kinds.append(event.kind)
        logged.append(LoggedEvent(len(logged) + 1, attempt, event))
    if draw(st.booleans()):
        logged.append(LoggedEvent(len(logged) + 1, attempt, Finished(ReplyStatus.STOPPED)))
    return logged


@st.composite
def _events(draw: st.DrawFn, choice: str, kinds: list[PartKind], attempt: int) -> ReplyEvent:
    if choice == "status":
        return StatusChanged(ReplyStatus.STREAMING)
    if choice == "retry":
        return Retrying(attempt, 100)
    if choice == "part" or not kinds:
        kind = draw(st.sampled_from(PartKind))
        return PartAdded(len(kinds), kind, call_in(len(kinds)) if kind is PartKind.TOOL_CALL else None)
    part = draw(st.integers(0, len(kinds) - 1))
    if kinds[part] is not PartKind.TOOL_CALL:
        return TextDelta(part, draw(texts))
    if choice == "text":
        return ArgumentsDelta(part, draw(texts))
    changed = replace(call_in(part), status=draw(st.sampled_from(ToolCallStatus)), arguments_text=draw(texts))
    return ToolCallChanged(part, changed)


@given(logs())
def test_joining_neighbouring_deltas_changes_no_fold(log: list[LoggedEvent]) -> None:
    assert fold(joined(log)) == fold(log)


@given(logs())
def test_joining_keeps_the_last_number_and_never_mixes_attempts_or_parts(log: list[LoggedEvent]) -> None:
    result = joined(log)
    assert [e.seq for e in result] == sorted({e.seq for e in result})
    assert not log or result[-1].seq == log[-1].seq
    for earlier, later in pairwise(result):
        if isinstance(earlier.event, Delta) and isinstance(later.event, Delta):
            assert (earlier.attempt, earlier.event.index) != (later.attempt, later.event.index)


@given(logs(), st.data())
def test_folding_a_beginning_and_going_on_with_the_rest_equals_folding_the_whole(
    log: list[LoggedEvent], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))
    folder = Folder()
    for event in joined(log[:cut]):
        folder.add(event)
    folder.parts()
    twin = folder.copy()
    for event in joined(log[cut:]):
        twin.add(event)
    assert twin.parts() == fold(log)
    assert folder.parts() == fold(log[:cut])


@given(logs())
def test_the_end_of_a_reply_leaves_no_call_open(log: list[LoggedEvent]) -> None:
    ended = fold([*log, LoggedEvent(len(log) + 1, 1, Finished(ReplyStatus.FAILED))])
    assert all(part.call.status.ended for part in ended if part.call is not None)
