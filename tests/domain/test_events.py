"""The laws of the log: joining changes no fold, and a fold can be cut anywhere."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from domain.conversations import PartKind
from domain.events import Folder, LoggedEvent, PartAdded, ReplyEvent, Retrying, StatusChanged, TextDelta, fold, joined
from domain.replies import ReplyStatus

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedEvent]:
    """Any log a writer could have made: parts numbered as they come, rising attempts, other events between."""
    events: list[ReplyEvent] = []
    parts = 0
    attempt = 1
    logged: list[LoggedEvent] = []
    for _ in range(draw(st.integers(0, 30))):
        choice = draw(st.sampled_from(["part", "text", "text", "text", "status", "retry", "attempt"]))
        if choice == "attempt":
            attempt += 1
            continue
        event: ReplyEvent
        if choice == "part" or (choice == "text" and parts == 0):
            event = PartAdded(parts, draw(st.sampled_from(PartKind)))
            parts += 1
        elif choice == "text":
            event = TextDelta(draw(st.integers(0, parts - 1)), draw(texts))
        elif choice == "status":
            event = StatusChanged(ReplyStatus.STREAMING)
        else:
            event = Retrying(attempt, 100)
        events.append(event)
        logged.append(LoggedEvent(len(logged) + 1, attempt, event))
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
        if isinstance(earlier.event, TextDelta) and isinstance(later.event, TextDelta):
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
