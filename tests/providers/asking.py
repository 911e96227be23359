"""An OpenAIChatModel on a scripted endpoint, with everything around it that a test wants to see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from domain.conversations import ModelParams, Role
from domain.errors import ProviderError
from domain.models import (
    ArgumentsChunk,
    ChatChunk,
    ChatRequest,
    FinishChunk,
    Model,
    PromptMessage,
    ReasoningChunk,
    TextChunk,
    ToolCallChunk,
)
from providers.chat import ChatOptions, OpenAIChatModel, Provider
from providers.completions import Continuation
from tests.doubles import RecordingTelemetry
from tests.providers.endpoint import ScriptedEndpoint

KEY = "key of this server"
MODEL = "test-model"


def request(*texts: str, model: str = MODEL, params: ModelParams | None = None) -> ChatRequest:
    """A request with one user message made of these texts."""
    return ChatRequest(
        model, (PromptMessage(Role.USER, texts or ("Hello?",)),), params or ModelParams(), "reply_1", "conv_1"
    )


def calls_in(chunks: list[ChatChunk]) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call. Every promise of the port about their chunks is checked on the way."""
    told: list[tuple[str, str, str]] = []
    for chunk in chunks:
        if isinstance(chunk, ToolCallChunk):
            assert chunk.index == len(told)
            told.append((chunk.id, chunk.name, ""))
        elif isinstance(chunk, ArgumentsChunk):
            assert chunk.text
            id, name, arguments = told[chunk.index]
            told[chunk.index] = (id, name, arguments + chunk.text)
    return told


class Asking:
    """`pauses` are the seconds that were to be waited before retries; nothing is really waited unless `waits`."""

    def __init__(
        self,
        base_url: str,
        options: ChatOptions,
        *model_names: str,
        waits: bool = False,
        continuation: Continuation = Continuation.INSTRUCT,
    ) -> None:
        models = tuple(Model(name, "test", is_default=name == MODEL) for name in (MODEL, *model_names))
        self.telemetry = RecordingTelemetry()
        self.pauses: list[float] = []
        self._waits = waits
        self.model = OpenAIChatModel(
            [Provider("test", base_url, KEY, models, continuation)], options, self.telemetry, sleep=self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self._waits:
            await asyncio.sleep(seconds)

    async def chunks(self, asked: ChatRequest | None = None) -> list[ChatChunk]:
        async with aclosing(self.model.stream(asked or request())) as stream:
            return [chunk async for chunk in stream]

    async def text(self) -> str:
        return "".join(chunk.text for chunk in await self.chunks() if isinstance(chunk, TextChunk))

    async def reasoning(self) -> str:
        return "".join(chunk.text for chunk in await self.chunks() if isinstance(chunk, ReasoningChunk))

    async def finish(self) -> FinishChunk:
        last = (await self.chunks())[-1]
        assert isinstance(last, FinishChunk)
        return last

    async def failure(self, asked: ChatRequest | None = None) -> ProviderError:
        """The error that the stream ends with."""
        with pytest.raises(ProviderError) as caught:
            await self.chunks(asked)
        return caught.value


@asynccontextmanager
async def asking(
    endpoint: ScriptedEndpoint | str,
    *model_names: str,
    options: ChatOptions | None = None,
    waits: bool = False,
    continuation: Continuation = Continuation.INSTRUCT,
) -> AsyncIterator[Asking]:
    """Ask the endpoint, or whatever is at this address; without retries unless `options` say otherwise."""
    base_url = endpoint if isinstance(endpoint, str) else endpoint.base_url
    options = options or ChatOptions(read_timeout=5, max_retries=0)
    asking = Asking(base_url, options, *model_names, waits=waits, continuation=continuation)
    try:
        yield asking
    finally:
        await asking.model.aclose()
