"""What a model is asked and what it answers: requests, chunks and the catalogue of models on offer.

Only values; the endpoints behind them are the business of `providers/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from domain.conversations import ModelParams, Role
from domain.replies import FinishReason, Usage
from domain.tool_calls import ToolChoice


class ModelCapability(StrEnum):
    TOOLS = "TOOLS"
    VISION = "VISION"
    FILES = "FILES"
    REASONING = "REASONING"
    JSON_SCHEMA = "JSON_SCHEMA"


@dataclass(frozen=True, slots=True)
class Model:
    """A model on offer. `context_tokens` bounds prompt and answer together; None means unknown."""

    name: str
    provider: str
    title: str = ""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[ModelCapability, ...] = ()
    is_default: bool = False

    @property
    def calls_tools(self) -> bool:
        return ModelCapability.TOOLS in self.capabilities


@dataclass(frozen=True, slots=True)
class PromptCall:
    """A call that the model made earlier. `arguments` is a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """`calls` are those of an assistant's message; a ToolAnswer to each of them follows."""

    role: Role
    texts: tuple[str, ...]
    calls: tuple[PromptCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What came of a call; never empty."""

    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that the model may call. `parameters` is a JSON Schema of type "object"."""

    name: str
    description: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call to a model: who is asked, what was said so far (oldest first), and how to answer.

    `unfinished` is the part of this answer that was shown already; the model is asked to go on from its end.
    """

    model: str
    messages: tuple[PromptMessage | ToolAnswer, ...]
    params: ModelParams
    reply_id: str
    conversation_id: str
    unfinished: str = ""
    tools: tuple[OfferedTool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of the answer; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningChunk:
    """A piece of the model's reasoning, where the endpoint shows it; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallChunk:
    """A call of a tool begins: the `index`-th of this answer, from 0 without gaps. `id` may be empty or used before."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsChunk:
    """A piece of the arguments of the `index`-th call, which has begun; never empty."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class RetryChunk:
    """The request failed before anything arrived and is made again after `delay_ms`."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """The endpoint accepted the request; `request_id` is its own name for it (the x-request-id header)."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class FinishChunk:
    """The last chunk of a stream that ended as the protocol says. `usage` is None when the endpoint did not tell.

    The reason is STOP too where the model stopped for its tool calls.
    """

    finish_reason: FinishReason
    usage: Usage | None
    response_model: str | None
    completion_id: str | None


ChatChunk = TextChunk | ReasoningChunk | ToolCallChunk | ArgumentsChunk | RetryChunk | RequestStarted | FinishChunk
