"""Turning what a model answers into the events of its reply, and what is noted of an attempt on the way.

Nothing here asks a model, runs a tool or stores anything.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain.conversations import PartKind
from domain.events import ArgumentsDelta, PartAdded, Retrying, TextDelta
from domain.models import (
    ArgumentsChunk,
    ChatChunk,
    ReasoningChunk,
    RequestStarted,
    RetryChunk,
    TextChunk,
    ToolCallChunk,
)
from domain.ports import Clock, Ids
from domain.replies import Usage
from domain.seam import Seam
from domain.spoken import calls_in
from domain.tail import Tail
from domain.tool_calls import ToolCall


@dataclass(slots=True)
class Notes:
    """What is known of a running attempt, for the outcome at whatever moment it ends."""

    begun: str = ""
    """The text of the answer that the reply began with after its last call, as it continues another."""
    whole: int = 0
    """So many of the first parts belong to answers that are whole."""
    begun_calls: int = 0
    begun_steps: int = 0
    input_tokens: int = 0
    requests: int = 0
    cuts: int = 0
    spent: Usage = field(default_factory=Usage)
    """Of the requests that ended, whole or cut."""
    reserved: int = 0
    """Of the user's budget, for the whole attempt; 0 where nothing is."""
    written: list[str] = field(default_factory=list)
    """What the running request has answered, reasoning and arguments too."""
    asked: bool = False
    """Whether a request runs."""
    next_request_at: datetime | None = None
    accepted: bool = False
    """Whether the running request got as far as costing tokens."""
    request_id: str | None = None
    first_token_at: datetime | None = None
    reasoning_from: datetime | None = None
    reasoning_ms: int | None = None

    def request_ended(self, usage: Usage) -> None:
        self.spent += usage
        self.written.clear()
        self.asked = self.accepted = False


class PartWriter:
    """Turns chunks into events: a part begins with the first chunk of another kind than the one before.

    A continuation goes on in the last part; what it repeats of the answer is dropped.
    """

    def __init__(self, tail: Tail, notes: Notes, clock: Clock, ids: Ids) -> None:
        self._tail = tail
        self._notes = notes
        self._clock = clock
        self._ids = ids
        self._index = -1
        self._kind: PartKind | None = None
        self._seam = Seam("")
        self._step = 0
        self._calls: dict[int, int] = {}
        self._used: set[str] = set()

    def begin(self, unfinished: str, step: int) -> None:
        """A request begins, after so much of the answer. Reasoning that broke off stays, and is begun anew."""
        parts = self._tail.parts_so_far()
        self._index = len(parts) - 1
        going_on = len(parts) > self._notes.whole and parts[-1].kind is PartKind.TEXT
        self._kind = PartKind.TEXT if going_on else None
        self._seam = Seam(unfinished)
        self._step = step
        self._calls = {}
        self._used = {call.upstream_id for _, call in calls_in(parts)}

    def write(self, chunk: ChatChunk) -> None:
        match chunk:
            case TextChunk(text):
                self._notes.written.append(text)
                self._append(PartKind.TEXT, self._seam.feed(text))
            case ReasoningChunk(text):
                self._notes.written.append(text)
                self._append(PartKind.REASONING, text)
            case ArgumentsChunk(index, text):
                self._notes.written.append(text)
                self._tail.append(ArgumentsDelta(self._calls[index], text))
            case ToolCallChunk():
                self._begin_call(chunk)
            case RequestStarted(request_id):
                self._notes.accepted = True
                self._notes.next_request_at = None
                self._notes.request_id = request_id
            case RetryChunk(delay_ms):
                self._notes.requests += 1
                self._notes.next_request_at = self._clock.now() + timedelta(milliseconds=delay_ms)
                self._tail.append(Retrying(self._notes.requests, delay_ms))
            case _:
                pass

    def end(self) -> None:
        """The answer is whole."""
        self._append(PartKind.TEXT, self._seam.end())
        self._close_reasoning()

    def _append(self, kind: PartKind, text: str) -> None:
        if not text:
            return
        self._shown()
        if kind is not self._kind:
            self._begin(kind)
        self._tail.append(TextDelta(self._index, text))

    def _begin_call(self, chunk: ToolCallChunk) -> None:
        """Within a reply each of the endpoint's ids stands for one call."""
        self._append(PartKind.TEXT, self._seam.end())
        self._shown()
        self._notes.written.append(chunk.name)
        upstream_id = "" if chunk.id in self._used else chunk.id
        self._used.add(chunk.id)
        self._begin(PartKind.TOOL_CALL, ToolCall(self._ids.new("call"), chunk.name, self._step, upstream_id))
        self._calls[chunk.index] = self._index

    def _shown(self) -> None:
        if self._notes.first_token_at is None:
            self._notes.first_token_at = self._clock.now()

    def _begin(self, kind: PartKind, call: ToolCall | None = None) -> None:
        now = self._clock.now()
        self._close_reasoning()
        if kind is PartKind.REASONING:
            self._notes.reasoning_from = now
        self._index += 1
        self._kind = kind
        self._tail.append(PartAdded(self._index, kind, call))

    def _close_reasoning(self) -> None:
        if self._notes.reasoning_from is not None and self._kind is PartKind.REASONING:
            elapsed = self._clock.now() - self._notes.reasoning_from
            self._notes.reasoning_ms = round(elapsed.total_seconds() * 1000)
            self._notes.reasoning_from = None
