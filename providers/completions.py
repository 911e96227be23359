"""What OpenAI-compatible endpoints are asked: a ChatRequest as the JSON of a streamed completion.

Pure translation, without input or output. Knows what endpoints demand differently. What they answer is read in
`frames.py`; whoever sends the bytes is in `endpoint.py`.
"""

import hashlib
import re
from collections.abc import Collection
from enum import StrEnum
from typing import Any

from domain.conversations import Role
from domain.models import ChatRequest, OfferedTool, PromptCall, PromptMessage, ToolAnswer
from domain.tool_calls import ToolChoice

_COMPLETION_TOKENS = re.compile(r"(?:o\d|gpt-[5-9])(?![a-z0-9])")
"""Model families that refuse `max_tokens` and want `max_completion_tokens`."""

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_-]")
"""OpenAI takes names of 1 to 64 other characters, also of calls that a model made of what it was not offered."""

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


class Demand(StrEnum):
    """What not every endpoint wants. The value, in lower case, is in the refusal of whoever wants it."""

    NO_STREAM_OPTIONS = "stream_options"
    SHORT_CALL_IDS = "tool call id"
    """Mistral's API and templates take ids of nine letters and digits; a conversation may come from elsewhere."""
    CALL_SIGNATURES = "thought_signature"
    """Gemini 3 wants its calls back with their signatures, which nobody keeps; its documentation names a stand-in."""


def request_body(request: ChatRequest, demands: Collection[Demand], continuation: Continuation) -> dict[str, Any]:
    """The body of a streamed completion; parameters that are None are left out."""
    params = request.params
    limit = "max_completion_tokens" if _COMPLETION_TOKENS.match(_family(request.model)) else "max_tokens"
    body = {
        "model": request.model,
        "messages": [_message(message, demands) for message in (*request.messages, *_going_on(request, continuation))],
        "stream": True,
        "stream_options": None if Demand.NO_STREAM_OPTIONS in demands else {"include_usage": True},
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


def _message(message: PromptMessage | ToolAnswer, demands: Collection[Demand]) -> dict[str, Any]:
    """An assistant's message of calls alone has the content null: some endpoints refuse "", others want the field."""
    if isinstance(message, ToolAnswer):
        return {"role": "tool", "tool_call_id": _call_id(message.call_id, demands), "content": message.text}
    content: Any = [{"type": "text", "text": text} for text in message.texts]
    if len(message.texts) == 1:
        content = message.texts[0]
    if not message.calls:
        return {"role": _ROLES[message.role], "content": content}
    calls = [_call(call, demands) for call in message.calls]
    return {"role": _ROLES[message.role], "content": content or None, "tool_calls": calls}


def _call(call: PromptCall, demands: Collection[Demand]) -> dict[str, Any]:
    name = _NOT_IN_NAMES.sub("_", call.name)[:64] or "_"
    function = {"name": name, "arguments": call.arguments}
    told: dict[str, Any] = {"id": _call_id(call.id, demands), "type": "function", "function": function}
    if Demand.CALL_SIGNATURES in demands:
        told["extra_content"] = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    return told


def _call_id(id: str, demands: Collection[Demand]) -> str:
    return hashlib.sha256(id.encode()).hexdigest()[:9] if Demand.SHORT_CALL_IDS in demands else id


def _tool(tool: OfferedTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
