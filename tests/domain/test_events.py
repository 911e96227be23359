"""The laws of the log: joining changes no fold, a fold can be cut anywhere, and no call outlives its reply."""

from collections.abc import Callable
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
LATER = [status for status in ToolCallStatus if status is not ToolCallStatus.WRITING]


class Writing:
    """A writer at random: parts numbered as they come, deltas into any that takes them, calls that change."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._kinds: list[PartKind] = []
        self._calls: dict[int, ToolCall] = {}

    def part(self) -> ReplyEvent:
        index, kind = len(self._kinds), self._draw(st.sampled_from(PartKind))
        self._kinds.append(kind)
        if kind is PartKind.TOOL_CALL:
            self._calls[index] = ToolCall(f"call_{index}", "tool", step=1)
        return PartAdded(index, kind, self._calls.get(index))

    def delta(self) -> ReplyEvent:
        takes = [index for index in range(len(self._kinds)) if self._takes(index)]
        if not takes:
            return self.part()
        index, text = self._draw(st.sampled_from(takes)), self._draw(texts)
        if index not in self._calls:
            return TextDelta(index, text)
        call = self._calls[index]
        self._calls[index] = replace(call, arguments_text=call.arguments_text + text)
        return ArgumentsDelta(index, text)

    def change(self) -> ReplyEvent:
        if not self._calls:
            return self.part()
        index = self._draw(st.sampled_from(sorted(self._calls)))
        self._calls[index] = replace(self._calls[index], status=self._draw(st.sampled_from(LATER)))
        return ToolCallChanged(index, self._calls[index])

    def _takes(self, index: int) -> bool:
        return index not in self._calls or self._calls[index].status is ToolCallStatus.WRITING


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedEvent]:
    """Any log a writer could have made: rising attempts, other events between, perhaps an end."""
    writing, attempt = Writing(draw), 1
    makers: dict[str, Callable[[], ReplyEvent]] = {
        "part": writing.part,
        "delta": writing.delta,
        "change": writing.change,
        "status": lambda: StatusChanged(ReplyStatus.STREAMING),
        "retry": lambda: Retrying(attempt, 100),
    }
    choices = st.sampled_from(["part", "delta", "delta", "delta", "change", "status", "retry", "attempt"])
    logged: list[LoggedEvent] = []
    for choice in draw(st.lists(choices, max_size=30)):
        if choice == "attempt":
            attempt += 1
        else:
            logged.append(LoggedEvent(len(logged) + 1, attempt, makers[choice]()))
    if draw(st.booleans()):
        logged.append(LoggedEvent(len(logged) + 1, attempt, Finished(ReplyStatus.COMPLETE)))
    return logged


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
def test_a_call_that_is_being_written_has_the_arguments_so_far(log: list[LoggedEvent]) -> None:
    for part in fold(log):
        if part.call is not None and part.call.status is ToolCallStatus.WRITING:
            deltas = (e.event for e in log if isinstance(e.event, ArgumentsDelta) and e.event.index == part.index)
            assert part.call.arguments_text == "".join(delta.text for delta in deltas)


@given(logs())
def test_after_the_end_of_a_reply_every_call_has_ended(log: list[LoggedEvent]) -> None:
    ended = [*log, LoggedEvent(len(log) + 1, 1, Finished(ReplyStatus.STOPPED))]
    calls = [part.call for part in fold(ended) if part.call is not None]
    assert all(call.status.ended for call in calls)
