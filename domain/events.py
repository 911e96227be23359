"""The log of a reply: its events, their numbers, and what they add up to.

One row is one event is one number. Everything a reader is ever shown is a fold of this log, so the two laws that the
product rests on are about the pure functions in this file: joining neighbouring deltas changes no fold, and folding
the whole equals folding a beginning and going on with the rest.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from domain.conversations import MessagePart, PartKind
from domain.replies import ReplyStatus
from domain.tool_calls import ToolCall, ToolCallStatus, cancelled


@dataclass(frozen=True, slots=True)
class PartAdded:
    """A part begins, empty. One of the kind TOOL_CALL comes with its call, whose arguments follow."""

    index: int
    kind: PartKind
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text to append to the part with this index."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """Text to append to the arguments of the call in the part with this index, which is being written."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallChanged:
    """The call in the part with this index as it is from now on."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class StatusChanged:
    status: ReplyStatus


@dataclass(frozen=True, slots=True)
class Retrying:
    """The model is asked again; the text so far stays."""

    attempt: int
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every reply. It cancels the calls that have not ended."""

    status: ReplyStatus


Delta = TextDelta | ArgumentsDelta
ReplyEvent = PartAdded | Delta | ToolCallChanged | StatusChanged | Retrying | Finished


def queued_again(attempt: int) -> tuple[ReplyEvent, ...]:
    """What readers are told when an attempt ends without an end, rescued or handed over: another one goes on."""
    return StatusChanged(ReplyStatus.QUEUED), Retrying(attempt + 1, 0)


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event with its number in the reply's log (from 1, without gaps) and the attempt that wrote it."""

    seq: int
    attempt: int
    event: ReplyEvent


class Folder:
    """Folds events into parts, one by one, in constant time per event."""

    __slots__ = ("_calls", "_kinds", "_texts", "seq")

    def __init__(self) -> None:
        self._calls: dict[int, ToolCall] = {}
        self._kinds: list[PartKind] = []
        self._texts: list[list[str]] = []
        self.seq = 0

    def add(self, logged: LoggedEvent) -> None:
        """Events must come in the order of their numbers, without gaps."""
        match logged.event:
            case PartAdded(index, kind, call):
                self._kinds.append(kind)
                self._texts.append([])
                if call is not None:
                    self._calls[index] = call
            case TextDelta(index, text) | ArgumentsDelta(index, text):
                self._texts[index].append(text)
            case ToolCallChanged(index, call):
                self._calls[index] = call
            case Finished():
                self._calls = {index: cancelled(self._with_arguments(index)) for index in self._calls}
            case _:
                pass
        self.seq = logged.seq

    def copy(self) -> "Folder":
        twin = Folder()
        twin._calls = dict(self._calls)
        twin._kinds = list(self._kinds)
        twin._texts = [list(texts) for texts in self._texts]
        twin.seq = self.seq
        return twin

    def parts(self) -> tuple[MessagePart, ...]:
        for texts in self._texts:
            if len(texts) > 1:
                texts[:] = ["".join(texts)]
        return tuple(
            MessagePart(index, kind, texts[0] if texts else "")
            if kind is not PartKind.TOOL_CALL
            else MessagePart(index, kind, call=self._with_arguments(index))
            for index, (kind, texts) in enumerate(zip(self._kinds, self._texts, strict=True))
        )

    def _with_arguments(self, index: int) -> ToolCall:
        """A call that is being written has the arguments so far; later its changes say them."""
        call = self._calls[index]
        if call.status is not ToolCallStatus.WRITING:
            return call
        return replace(call, arguments_text="".join(self._texts[index]))


class Window:
    """The newest committed events of one reply, in memory: from some number on without gaps up to `newest`."""

    __slots__ = ("_kept", "finished", "newest")

    def __init__(self, newest: int, size: int) -> None:
        self.newest = newest
        self.finished = False
        self._kept: deque[LoggedEvent] = deque(maxlen=size)

    def add(self, events: Sequence[LoggedEvent]) -> None:
        """Events must come in the order of their numbers, without gaps."""
        if not events:
            return
        self._kept.extend(events)
        self.newest = events[-1].seq
        self.finished = isinstance(events[-1].event, Finished)

    def after(self, seq: int) -> list[LoggedEvent] | None:
        """Those with higher numbers; None when this memory cannot tell: it does not reach back so far, or forward."""
        behind = self.newest - seq
        if not 0 <= behind <= len(self._kept):
            return None
        return [self._kept[i] for i in range(len(self._kept) - behind, len(self._kept))]


def folded(events: Iterable[LoggedEvent]) -> Folder:
    folder = Folder()
    for event in events:
        folder.add(event)
    return folder


def fold(events: Iterable[LoggedEvent]) -> tuple[MessagePart, ...]:
    return folded(events).parts()


def untold(parts: Iterable[MessagePart], stored: Mapping[str, ToolCall]) -> list[ReplyEvent]:
    """What is stored of the calls in these parts, by id, and was not told in their log."""
    calls = ((part.index, part.call) for part in parts if part.call is not None)
    return [ToolCallChanged(index, stored[call.id]) for index, call in calls if stored.get(call.id, call) != call]


def whole_in(log: Iterable[LoggedEvent]) -> int:
    """How many parts belong to answers of the model that are whole: up to the last that called tools, and its end."""
    parts = whole = 0
    for logged in log:
        match logged.event:
            case PartAdded(_, _, call):
                parts += 1
                whole = parts if call is not None and call.told else whole
            case ToolCallChanged(_, call) if call.told:
                whole = parts
    return whole


def written_in(log: Iterable[LoggedEvent], attempt: int) -> str:
    """All that one attempt wrote, reasoning and the arguments of calls too."""
    mine = (logged.event for logged in log if logged.attempt == attempt)
    return "".join(event.text for event in mine if isinstance(event, Delta))


def joined(events: Iterable[LoggedEvent]) -> list[LoggedEvent]:
    """The same events with neighbouring deltas of one part and one attempt made one; it has the last one's number."""
    result: list[LoggedEvent] = []
    run: list[str] = []
    for logged in events:
        last = result[-1] if result else None
        if (
            last is not None
            and isinstance(last.event, Delta)
            and isinstance(logged.event, Delta)
            and last.event.index == logged.event.index
            and last.attempt == logged.attempt
        ):
            run.append(logged.event.text)
            result[-1] = replace(last, seq=logged.seq)
            continue
        _close(result, run)
        result.append(logged)
        if isinstance(logged.event, Delta):
            run = [logged.event.text]
    _close(result, run)
    return result


def _close(result: list[LoggedEvent], run: list[str]) -> None:
    if len(run) > 1:
        last = result[-1]
        assert isinstance(last.event, Delta)
        result[-1] = replace(last, event=replace(last.event, text="".join(run)))
    run.clear()
