"""The JSON that OpenAI-compatible endpoints speak: a ChatRequest as a request body, frames of an answer as chunks.

Pure translation, without input or output. Knows the dialects (reasoning, refusals, whole completions in place of
streams); those of tool calls are in `calls.py`. Whoever sends and receives the bytes is in `endpoint.py`.

Text arrives exactly as it was sent, but for what no database can store (see `storable.py`). A surrogate pair split
over two frames is put together again.
"""

import json
import re
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from domain.conversations import Role
from domain.errors import ProviderError
from domain.models import (
    ChatChunk,
    ChatRequest,
    FinishChunk,
    OfferedTool,
    PromptCall,
    PromptMessage,
    ReasoningChunk,
    TextChunk,
    ToolAnswer,
)
from domain.replies import FinishReason, Usage
from domain.tool_calls import ToolChoice
from providers.calls import CallDelta, CallReader, FunctionDelta
from providers.errors import broke_off, from_frame
from providers.storable import Storable

_COMPLETION_TOKENS = re.compile(r"(?:o\d|gpt-[5-9])(?![a-z0-9])")
"""Model families that refuse `max_tokens` and want `max_completion_tokens`."""

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_BROKEN_REASONS = frozenset({"error", "abort", "insufficient_system_resource"})

_TOOL_CHOICES = {ToolChoice.AUTO: None, ToolChoice.NONE: "none", ToolChoice.REQUIRED: "required"}

_ROLES = {Role.SYSTEM: "system", Role.USER: "user", Role.ASSISTANT: "assistant"}

_GO_ON = (
    "Your last message was cut off. Continue it exactly where it stopped, even in the middle of a word, in the same "
    "language and format. Do not repeat any of it, do not comment on it and do not begin anew."
)


class Continuation(StrEnum):
    """How an endpoint is asked to go on with an unfinished answer.

    PREFILL: it continues the last message if that is an assistant's. INSTRUCT: a user's message asks it to. Either way
    the unfinished text may come again first: llama.cpp does so in a whole completion, but not in a stream.
    """

    PREFILL = "prefill"
    INSTRUCT = "instruct"


def request_body(request: ChatRequest, *, ask_usage: bool, continuation: Continuation) -> dict[str, Any]:
    """The body of a streamed completion; parameters that are None are left out."""
    params = request.params
    limit = "max_completion_tokens" if _COMPLETION_TOKENS.match(_family(request.model)) else "max_tokens"
    body = {
        "model": request.model,
        "messages": [_message(message) for message in (*request.messages, *_going_on(request, continuation))],
        "stream": True,
        "stream_options": {"include_usage": True} if ask_usage else None,
        "temperature": params.temperature,
        "top_p": params.top_p,
        limit: params.max_tokens,
        "stop": None if params.stop is None else list(params.stop),
        "seed": params.seed,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _TOOL_CHOICES[request.tool_choice] if request.tools else None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _going_on(request: ChatRequest, continuation: Continuation) -> tuple[PromptMessage, ...]:
    if not request.unfinished:
        return ()
    unfinished = PromptMessage(Role.ASSISTANT, (request.unfinished,))
    if continuation is Continuation.PREFILL:
        return (unfinished,)
    return unfinished, PromptMessage(Role.USER, (_GO_ON,))


def _family(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower()


def _message(message: PromptMessage | ToolAnswer) -> dict[str, Any]:
    """An assistant's message of calls alone has the content null: some endpoints refuse "", others want the field."""
    if isinstance(message, ToolAnswer):
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    content: Any = [{"type": "text", "text": text} for text in message.texts]
    if len(message.texts) == 1:
        content = message.texts[0]
    if not message.calls:
        return {"role": _ROLES[message.role], "content": content}
    calls = [_call(call) for call in message.calls]
    return {"role": _ROLES[message.role], "content": content or None, "tool_calls": calls}


def _call(call: PromptCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: OfferedTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


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


class _Frame(Struct):
    choices: list[_Choice] | None = None
    usage: Raw | None = None
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
        self._usage: Raw | bytes | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._text = Storable()
        self._reasoning = Storable()
        self._calls = CallReader()

    def read(self, payload: bytes) -> list[ChatChunk]:
        """The chunks in one frame, or in a whole completion.

        Raises ProviderError, but not any more when finished: what is garbled then is only the usage.
        """
        try:
            frame = _frame(payload)
        except ProviderError:
            if self.finished:
                return []
            raise
        if self._id is None and frame.id is not None:
            self._id = Storable.whole(str(frame.id))
        if self._model is None and frame.model is not None:
            self._model = Storable.whole(frame.model)
        if frame.usage is not None:
            self._usage = bytes(frame.usage)
        return self._choice(frame.choices[0]) if frame.choices else []

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
            told = None if self._usage is None else _decode_usage(self._usage)
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
    frame.usage = None if usage is None else Raw(json.dumps(usage).encode())
    return frame
