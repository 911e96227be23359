"""The ChatModel port over OpenAI-compatible endpoints: which provider is asked, how often and for how long.

One request to one endpoint is in `endpoint.py`, the dialects are in `frames.py`, failures in `errors.py`. Knows
nothing of replies, their log or their readers.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from domain.errors import ProviderError
from domain.models import ChatChunk, ChatRequest, Model
from domain.ports import Telemetry
from providers.endpoint import Endpoint, Pace, Provider, TimeLimits
from providers.errors import unknown_model
from providers.retries import RetryPolicy, Sleep, retrying

__all__ = ["ChatOptions", "OpenAIChatModel", "Provider"]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Seconds and counts. `read_timeout` is between two reads (a stall), `total_timeout` for a stream with retries."""

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    total_timeout: float = 600.0
    max_retries: int = 2
    retry_base: float = 0.5
    retry_cap: float = 8.0


class OpenAIChatModel:
    """The models of several providers as one ChatModel. `aclose` it when the server stops.

    Raises ValueError when two providers offer models of the same name.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        options: ChatOptions,
        telemetry: Telemetry,
        *,
        pace: Pace | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        limits = TimeLimits(options.connect_timeout, options.read_timeout)
        self._endpoints = [(provider, Endpoint(provider, limits, telemetry, pace)) for provider in providers]
        self._offers = {model.name: (model, end) for provider, end in self._endpoints for model in provider.models}
        if len(self._offers) < sum(len(provider.models) for provider in providers):
            raise ValueError("Each model name may be offered by one provider only.")
        self._policy = RetryPolicy(options.max_retries, options.retry_base, options.retry_cap)
        self._total = options.total_timeout
        self._telemetry = telemetry
        self._sleep = sleep

    def models(self) -> Sequence[Model]:
        return [model for model, _ in self._offers.values()]

    async def aclose(self) -> None:
        """Close all connections; streams that are still open fail."""
        for _, endpoint in self._endpoints:
            await endpoint.close()

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """See ChatModel. The time limit for the whole stream runs from this call on."""
        deadline = asyncio.get_running_loop().time() + self._total

        def attempt() -> AsyncGenerator[ChatChunk, None]:
            return self._endpoint(request.model).stream(request, deadline)

        def on_retry(error: ProviderError) -> None:
            self._telemetry.provider_retried(request, error)

        return retrying(attempt, self._policy, deadline=deadline, on_retry=on_retry, sleep=self._sleep)

    def _endpoint(self, model: str) -> Endpoint:
        if model not in self._offers:
            raise unknown_model(model)
        return self._offers[model][1]
