"""Small stand-ins for ports, which pass the same contract tests as the real things. They know the domain only."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence

from domain.errors import ProviderError, ReplyErrorCode, Unavailable
from domain.models import (
    ArgumentsChunk,
    ChatChunk,
    ChatRequest,
    FinishChunk,
    Model,
    ModelCapability,
    PromptMessage,
    RequestStarted,
    TextChunk,
    ToolAnswer,
    ToolCallChunk,
)
from domain.ports import ProviderCall
from domain.replies import FinishReason, Lease, Outcome, Usage
from domain.tool_calls import ToolCall

Step = ChatChunk | Exception | asyncio.Event

SCRIPTED = Model(
    name="scripted",
    provider="tests",
    title="Scripted",
    context_tokens=8_000,
    capabilities=(ModelCapability.TOOLS,),
    is_default=True,
)


def answer(*texts: str, reason: FinishReason = FinishReason.STOP, usage: Usage | None = None) -> list[Step]:
    """The script of a request that is answered with these pieces of text."""
    end = FinishChunk(reason, usage, response_model="scripted-1", completion_id="completion-1")
    return [RequestStarted("request-1"), *map(TextChunk, texts), end]


def calling(*calls: tuple[str, str], text: str = "", usage: Usage | None = None) -> list[Step]:
    """The script of a request that is answered with some text and these calls: (name of the tool, arguments).

    Their ids are call-0, call-1 and so on; arguments come in two pieces where there is enough of them.
    """
    steps: list[Step] = []
    for index, (name, arguments) in enumerate(calls):
        half = len(arguments) // 2
        steps.append(ToolCallChunk(index, f"call-{index}", name))
        steps += [ArgumentsChunk(index, piece) for piece in (arguments[:half], arguments[half:]) if piece]
    started, *spoken, end = answer(*([text] if text else []), usage=usage)
    return [started, *spoken, *steps, end]


def heard(messages: Iterable[PromptMessage | ToolAnswer]) -> list[PromptMessage]:
    """What a model is told, but for what came of its calls."""
    return [message for message in messages if isinstance(message, PromptMessage)]


class ScriptedModel:
    """A ChatModel that plays one script per request: chunks are yielded, exceptions raised, events waited for.

    The last script is played again for every further request. `requests` are those received; `closed` is set when a
    stream was closed before its end.
    """

    def __init__(self, *scripts: Iterable[Step], models: Sequence[Model] = (SCRIPTED,)) -> None:
        self._scripts = [list(script) for script in scripts] or [answer("Hello", " there", ".")]
        self._models = tuple(models)
        self.requests: list[ChatRequest] = []
        self.closed = asyncio.Event()

    def models(self) -> Sequence[Model]:
        return self._models

    def play(self, *scripts: Iterable[Step]) -> None:
        """From the next request on, these."""
        self._scripts = [list(script) for script in scripts]
        self.requests.clear()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        if request.model not in {model.name for model in self._models}:
            raise ProviderError(ReplyErrorCode.PROVIDER_REJECTED, "No such model.", retryable=False)
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        try:
            for step in script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.closed.set()
            raise


class RecordingTelemetry:
    """A Telemetry that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[ProviderCall] = []
        self.retries: list[Exception] = []
        self.settled: list[tuple[Lease, Outcome]] = []
        self.crashes: list[tuple[str, BaseException]] = []
        self.flushes: list[tuple[float, int]] = []
        self.failures: list[Exception] = []
        self.names: list[str] = []
        self.tools: list[ToolCall] = []
        self.broken: list[tuple[ToolCall, BaseException]] = []
        self.open_streams = 0
        self.live = 0

    def provider_called(self, request: ChatRequest, call: ProviderCall) -> None:
        self.calls.append(call)

    def provider_failed(self, lease: Lease, error: ProviderError) -> None:
        self.failures.append(error)

    def provider_retried(self, request: ChatRequest, error: Exception) -> None:
        self.retries.append(error)

    def reply_settled(self, lease: Lease, outcome: Outcome) -> None:
        self.settled.append((lease, outcome))

    def reply_crashed(self, reply_id: str, error: BaseException) -> None:
        self.crashes.append((reply_id, error))

    def tool_called(self, call: ToolCall) -> None:
        self.tools.append(call)

    def tool_broke(self, call: ToolCall, error: BaseException) -> None:
        self.broken.append((call, error))

    def journal_flushed(self, seconds: float, events: int) -> None:
        self.flushes.append((seconds, events))

    def worker_renamed(self, owner: str) -> None:
        self.names.append(owner)

    def work_failed(self, error: Exception) -> None:
        self.failures.append(error)

    def stream_opened(self) -> None:
        self.open_streams += 1

    def stream_closed(self) -> None:
        self.open_streams -= 1

    def replies_live(self, streaming: int) -> None:
        self.live = streaming


class WordCounter:
    """A TokenCounter that counts words."""

    def count(self, model: str, text: str) -> int:
        return len(text.split())

    def is_exact(self, model: str) -> bool:
        return False


class QuickHasher:
    """A PasswordHasher that is as quick as it is unfit for real passwords. `verified` counts what was verified.

    While `full` it has no time for anybody. `begun` is set when a password is about to be verified, which then waits
    for `go`.
    """

    def __init__(self, version: str = "2") -> None:
        self._version = version
        self.verified = 0
        self.full = False
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def hash(self, password: str) -> str:
        return self._hashed(password, secrets.token_hex(4), self._version)

    async def verify(self, password: str, hashed: str | None) -> bool:
        if self.full:
            raise Unavailable
        self.begun.set()
        await self.go.wait()
        self.verified += 1
        if hashed is None or hashed.count("$") != 3:
            return False
        _, version, salt, _ = hashed.split("$")
        return hashed == self._hashed(password, salt, version)

    def is_outdated(self, hashed: str) -> bool:
        return not hashed.startswith(f"quick${self._version}$")

    @staticmethod
    def _hashed(password: str, salt: str, version: str) -> str:
        sum_ = hashlib.sha256(salt.encode() + password.encode(errors="surrogatepass")).hexdigest()
        return f"quick${version}${salt}${sum_}"
