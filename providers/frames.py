"""What OpenAI-compatible endpoints answer: the frames of a stream, or a whole completion, as chunks.

Pure translation, without input or output. Knows the dialects (reasoning, refusals, whole completions in place of
streams); those of tool calls are in `calls.py`. Whoever receives the bytes is in `endpoint.py`.

Text arrives exactly as it was sent, but for what no database can store (see `storable.py`). A surrogate pair split
over two frames is put together again.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from domain.errors import ProviderError
from domain.models import ChatChunk, FinishChunk, ReasoningChunk, TextChunk
from domain.replies import FinishReason, Usage
from providers.calls import CallDelta, CallReader, FunctionDelta
from providers.errors import broke_off, from_frame
from providers.storable import Storable

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_BROKEN_REASONS = frozenset({"error", "abort", "insufficient_system_resource"})


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CallDelta | None] | None = None
    function_call: FunctionDelta | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None

    def text(self) -> str | None:
        """Where it says nothing else."""
        delta = self.delta
        if delta is None or self.finish_reason or delta.reasoning_content or delta.reasoning or delta.refusal:
            return None
        return None if delta.tool_calls or delta.function_call else delta.content


class _Frame(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = Raw()
    error: Any = None
    id: str | int | None = None
    model: str | None = None


Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""What databases and GraphQL call an integer; an endpoint that counts beyond it is not to be believed."""


class _Details(Struct):
    cached_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None


class _Usage(Struct):
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_usage = msgspec.json.Decoder(_Usage | None, strict=False).decode


class CompletionReader:
    """Reads one answer, frame by frame. `finished` as soon as the endpoint has given its finish reason."""

    __slots__ = ("_calls", "_id", "_model", "_reason", "_reasoning", "_refused", "_text", "_usage", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._reason = ""
        self._refused = False
        self._usage = b"null"
        self._model: str | None = None
        self._id: str | None = None
        self._text = Storable()
        self._reasoning = Storable()
        self._calls = CallReader()

    def read(self, payloads: Iterable[bytes]) -> Iterator[ChatChunk]:
        """The chunks in some frames, or in a whole completion; neighbouring pieces of text are made one.

        Raises ProviderError, after what came before the mistake, but not any more when finished: what is garbled then
        is only the usage.
        """
        texts: list[str] = []
        try:
            for payload in payloads:
                told = self._told(payload)
                if isinstance(told, str):
                    texts.append(told)
                    continue
                for chunk in told:
                    if type(chunk) is TextChunk:
                        texts.append(chunk.text)
                        continue
                    yield from _joined(texts)
                    yield chunk
        except ProviderError:
            yield from _joined(texts)
            raise
        yield from _joined(texts)

    def _told(self, payload: bytes) -> str | list[ChatChunk]:
        """Of a frame that is nothing but text, as most are, the text; of any other the chunks."""
        try:
            frame = _frame(payload)
        except ProviderError:
            if self.finished:
                return ""
            raise
        if self._id is None and frame.id is not None:
            self._id = Storable.whole(str(frame.id))
        if self._model is None and frame.model is not None:
            self._model = Storable.whole(frame.model)
        if (usage := bytes(frame.usage)) not in (b"", b"null"):
            self._usage = usage
        if not frame.choices:
            return ""
        text = frame.choices[0].text()
        if text and not (self.finished or self._calls):
            return self._text.add(text)
        return self._choice(frame.choices[0])

    def _choice(self, choice: _Choice) -> list[ChatChunk]:
        delta = choice.delta or choice.message
        chunks = self._content(delta) if delta is not None else []
        if choice.finish_reason:
            self._end(choice.finish_reason)
        if self.finished:
            chunks += self._rest()
        return chunks

    def _content(self, delta: _Delta) -> list[ChatChunk]:
        chunks: list[ChatChunk] = []
        if (thought := delta.reasoning_content or delta.reasoning) and (thought := self._reasoning.add(thought)):
            chunks.append(ReasoningChunk(thought))
        if delta.refusal:
            self._refused = True
        if (text := delta.content or delta.refusal) and (text := self._text.add(text)):
            chunks.append(TextChunk(text))
        if chunks:
            chunks = self._calls.waiting() + chunks
        if delta.tool_calls or delta.function_call:
            chunks += self._calls.add(delta.tool_calls or [CallDelta(function=delta.function_call)])
        return chunks

    def _rest(self) -> list[ChatChunk]:
        rest = self._text.rest()
        return [*([TextChunk(rest)] if rest else []), *self._calls.rest()]

    def _end(self, reason: str) -> None:
        if reason in _BROKEN_REASONS:
            raise broke_off(f"finish_reason {reason}")
        self._reason = reason
        self.finished = True

    def finish(self) -> FinishChunk:
        """The last chunk. Raises ProviderError when the endpoint gave no finish reason."""
        if not self.finished:
            raise broke_off("the stream ended without a finish reason")
        reason = _FINISH_REASONS.get(self._reason, FinishReason.STOP)
        if self._refused:
            reason = FinishReason.REFUSAL
        return FinishChunk(reason, self.usage(), self._model, self._id)

    def usage(self) -> Usage | None:
        """What the endpoint said so far; None when it said nothing, or nothing intelligible."""
        try:
            told = _decode_usage(self._usage)
        except msgspec.DecodeError:
            told = None
        if told is None:
            return None
        return Usage(
            input_tokens=told.prompt_tokens or 0,
            output_tokens=told.completion_tokens or 0,
            cached_input_tokens=(told.prompt_tokens_details or _Details()).cached_tokens or 0,
            reasoning_tokens=(told.completion_tokens_details or _Details()).reasoning_tokens or 0,
        )


def _joined(texts: list[str]) -> Iterator[TextChunk]:
    if text := "".join(texts):
        yield TextChunk(text)
    texts.clear()


def _frame(payload: bytes) -> _Frame:
    try:
        frame = _decode_frame(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        frame = _lenient_frame(payload)
    if frame.error:
        raise from_frame(frame.error)
    return frame


def _lenient_frame(payload: bytes) -> _Frame:
    """The slow way, which bears what msgspec refuses: lone surrogates and bytes that are not UTF-8."""
    try:
        loose = json.loads(payload.decode(errors="replace"))
        usage = loose.pop("usage", None) if isinstance(loose, dict) else None
        frame = msgspec.convert(loose, _Frame)
    except (ValueError, RecursionError) as error:
        raise broke_off(f"malformed frame: {payload[:200].decode(errors='replace')}") from error
    frame.usage = Raw(json.dumps(usage).encode())
    return frame
