"""Tool calls as OpenAI-compatible endpoints stream them: which call a frame is about, its name, its arguments.

Everybody agrees on the fields and nobody on their use. Seen in the wild, and borne here:

- the index is missing (Gemini, older Ollama), is 0 for every call (vLLM's parsers, Ollama), or has gaps;
- the id is in the first frame only, in every frame, another one in every frame (older vLLM), "" or "null" (Mistral);
- the name comes again in every frame (MiniMax), or cut into pieces (Gemini);
- the arguments are a JSON object (llama.cpp, MiniMax), null, or begin with an empty "{}" (LiteLLM before Claude's).

What the arguments say is not judged here.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec import Struct

from domain.models import ArgumentsChunk, ChatChunk, ToolCallChunk
from providers.errors import broke_off, too_many_calls
from providers.storable import Storable

MAX_CALLS = 128
MAX_ARGUMENTS = 1024 * 1024
"""Characters, of all the calls of one answer."""
MAX_NAME = 200
MAX_ID = 255
"""A longer id is none: half of it would be of no use to its endpoint."""

_EMPTY = "{}"


class FunctionDelta(Struct):
    name: str | None = None
    arguments: Any = None


class CallDelta(Struct):
    index: int | str | None = None
    id: str | int | None = None
    function: FunctionDelta | None = None


class _Piece(NamedTuple):
    """What one entry of a frame says. `place` is the index as the endpoint counts."""

    place: int | str | None
    id: str
    name: str
    text: str


class _Call:
    """A call as far as it is known; it is `told` once it was yielded.

    It is `whole` when its first arguments are all of them; `held` are some that may turn out to stand for nothing.
    """

    __slots__ = ("arguments", "begun", "held", "id", "index", "name", "place", "told", "whole")

    def __init__(self, index: int, place: int | str | None) -> None:
        self.index = index
        self.place = place
        self.id = self.name = self.held = ""
        self.arguments = Storable()
        self.told = self.begun = self.whole = False


class CallReader:
    """Makes chunks of the calls in one answer. A call is told as soon as its name can grow no more.

    That is: with its arguments, with whatever else the model says next, or at the end.
    """

    __slots__ = ("_calls", "_size")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, deltas: Iterable[CallDelta | None]) -> list[ChatChunk]:
        """The chunks in one frame. Raises ProviderError beyond MAX_CALLS and MAX_ARGUMENTS."""
        chunks: list[ChatChunk] = []
        in_frame: set[int] = set()
        for delta in deltas:
            if delta is not None:
                chunks += self._add(delta, in_frame)
        return chunks

    def waiting(self) -> list[ChatChunk]:
        """The last call, if it was not told yet: something else follows."""
        return _told(self._calls[-1]) if self._calls else []

    def rest(self) -> list[ChatChunk]:
        """All that was held back: this is the end."""
        chunks: list[ChatChunk] = []
        for call in self._calls:
            chunks += _told(call)
            rest, call.held = call.held or call.arguments.rest(), ""
            if rest:
                chunks.append(ArgumentsChunk(call.index, rest))
        return chunks

    def _add(self, delta: CallDelta, in_frame: set[int]) -> list[ChatChunk]:
        piece = _piece(delta)
        if not (piece.id or piece.name or piece.text):
            return []
        chunks: list[ChatChunk] = []
        call = self._known(piece)
        if call is None or _is_another(call, piece, again=call.index in in_frame):
            chunks += self.waiting()
            call = self._begin(piece.place)
        in_frame.add(call.index)
        _name(call, piece)
        return chunks + (self._argue(call, piece.text) if piece.text else [])

    def _known(self, piece: _Piece) -> _Call | None:
        """The call with this id, else the last, of those that the endpoint may mean by this index."""
        place = piece.place
        here = [call for call in reversed(self._calls) if place is None or call.place in (None, place)]
        return next((call for call in here if piece.id and call.id == piece.id), here[0] if here else None)

    def _begin(self, place: int | str | None) -> _Call:
        if len(self._calls) == MAX_CALLS:
            raise too_many_calls(f"more than {MAX_CALLS} tool calls in one answer")
        self._calls.append(_Call(len(self._calls), place))
        return self._calls[-1]

    def _argue(self, call: _Call, text: str) -> list[ChatChunk]:
        self._size += len(text)
        if self._size > MAX_ARGUMENTS:
            raise too_many_calls(f"more than {MAX_ARGUMENTS} characters of arguments in one answer")
        chunks = _told(call)
        if not call.begun:
            call.begun, call.whole = True, _is_object(text)
            if text == _EMPTY:
                call.held = text
                return chunks
        held, call.held = call.held, ""
        storable = call.arguments.add(text if text.startswith("{") else held + text)
        return [*chunks, ArgumentsChunk(call.index, storable)] if storable else chunks


def _is_another(call: _Call, piece: _Piece, *, again: bool) -> bool:
    """Whether a piece that may be of this call begins another one, which only a name does.

    `again`: the same frame had a piece of it before.
    """
    if not piece.name:
        return False
    if again:
        return True
    if piece.id and call.id:
        return piece.id != call.id
    return call.told and (piece.name != call.name or (call.whole and bool(piece.text)))


def _name(call: _Call, piece: _Piece) -> None:
    """Add to what is known of the call, until it is told."""
    if not call.told:
        call.id = call.id or piece.id
        if piece.name != call.name:
            call.name = (call.name + piece.name)[:MAX_NAME]


def _told(call: _Call) -> list[ChatChunk]:
    if call.told:
        return []
    call.told = True
    return [ToolCallChunk(call.index, call.id, Storable.whole(call.name))]


def _piece(delta: CallDelta) -> _Piece:
    function = delta.function or FunctionDelta()
    name = (function.name or "")[:MAX_NAME]
    return _Piece(delta.index, _id(delta.id), name, _text(function.arguments))


def _id(value: str | int | None) -> str:
    id = "" if value is None else Storable.whole(str(value))
    return "" if id == "null" or len(id) > MAX_ID else id


def _text(arguments: object) -> str:
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        return ""
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except RecursionError as error:
        raise broke_off("arguments nested too deeply") from error


def _is_object(text: str) -> bool:
    if not (text.startswith("{") and text.endswith("}")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
