"""One OpenAI-compatible endpoint and one request to it: connect, read within time limits, report, clean up.

The stream is read as bytes: a fifth of what the objects of AsyncOpenAI cost. How a request is made is in `client.py`.
Knows nothing of other providers and never makes a request twice.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from domain.errors import ProviderError
from domain.models import ChatChunk, ChatRequest, FinishChunk, Model, RequestStarted
from domain.ports import ProviderCall, Telemetry
from domain.replies import Usage
from providers.answer import Answer
from providers.body import body_of
from providers.client import CompletionsClient
from providers.completions import Continuation, Demand, request_body
from providers.errors import from_status, option_refused, provider_failures
from providers.frames import CompletionReader

REFUSAL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Provider:
    """An endpoint and what it offers.

    `base_url` is what stands before `/chat/completions`, and may hold a password; an empty `api_key` means that the
    endpoint asks for none.
    """

    name: str
    base_url: str = field(repr=False)
    api_key: str = field(repr=False)
    models: tuple[Model, ...]
    continuation: Continuation = Continuation.INSTRUCT


Pace = Callable[[], Awaitable[None]]
"""Waited for between two reads, from the first that brought something on. Without one each piece is read when it comes.
"""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: to connect, and between two reads."""

    connect: float
    read: float


class Endpoint:
    """The client of one provider; `close` it when the server stops."""

    def __init__(self, provider: Provider, limits: TimeLimits, telemetry: Telemetry, pace: Pace | None) -> None:
        self._key = provider.api_key
        self._continuation = provider.continuation
        self._limits = limits
        self._telemetry = telemetry
        self._pace = pace
        self._demands: frozenset[Demand] = frozenset()
        self._client = CompletionsClient(provider.base_url, provider.api_key, limits.connect)

    async def close(self) -> None:
        await self._client.close()

    async def stream(self, request: ChatRequest, deadline: float) -> AsyncGenerator[ChatChunk, None]:
        """One request, until `deadline` on the event loop's clock at most. Raises ProviderError.

        When the finish reason has arrived the reply is whole: whatever fails after it costs only the usage.
        """
        reader = CompletionReader()
        with CallMeter(self._telemetry, request, reader) as meter, provider_failures(self._key):
            async with await self._accepted(request, deadline) as response:
                answer = Answer(response.headers, body_of(response), self._limits.read, deadline)
                yield RequestStarted(answer.request_id)
                while (payloads := await answer.read(ending=reader.finished)) is not None:
                    for chunk in reader.read(payloads):
                        meter.first_chunk()
                        yield chunk
                    if self._pace is not None and meter.has_begun and not reader.finished:
                        answer.pause()
                        await self._pace()
            finish = reader.finish()
            meter.finished(finish)
            yield finish

    async def _accepted(self, request: ChatRequest, deadline: float) -> aiohttp.ClientResponse:
        """Raises OptionRefusedError when the endpoint turns out to demand something, which it is given from then on."""
        demands = self._demands
        body = msgspec.json.encode(request_body(request, demands, self._continuation))
        accepted_by = asyncio.get_running_loop().time() + self._limits.connect + self._limits.read
        async with asyncio.timeout_at(min(deadline, accepted_by)):
            response = await self._client.post(body)
            if 200 <= response.status < 300:
                return response
            async with response:
                refusal = await _refusal(response)
        told = refusal.lower()
        new = next((demand for demand in Demand if demand in told and demand not in demands), None)
        if new is None:
            raise from_status(response.status, response.headers, refusal, self._key)
        self._demands |= {new}
        raise option_refused(new)


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """What it says, as far as that comes and one wants to read it."""
    try:
        told = await response.content.readexactly(REFUSAL_BYTES)
    except asyncio.IncompleteReadError as error:
        told = error.partial
    except aiohttp.ClientError:
        told = b""
    return told.decode(errors="replace")


class CallMeter:
    """Tells telemetry about one request, exactly once, however it ends."""

    def __init__(self, telemetry: Telemetry, request: ChatRequest, reader: CompletionReader) -> None:
        self._telemetry = telemetry
        self._request = request
        self._reader = reader
        self._outcome = ""
        self._first: float | None = None
        self._began = time.monotonic()

    @property
    def has_begun(self) -> bool:
        return self._first is not None

    def first_chunk(self) -> None:
        """May be called for every chunk; only the first counts."""
        if self._first is None:
            self._first = time.monotonic() - self._began

    def finished(self, finish: FinishChunk) -> None:
        self._outcome = finish.finish_reason

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        call = ProviderCall(
            outcome=self._outcome or _outcome_of(error),
            seconds=time.monotonic() - self._began,
            first_token_seconds=self._first,
            usage=self._reader.usage() or Usage(estimated=True),
        )
        self._telemetry.provider_called(self._request, call)


def _outcome_of(error: BaseException | None) -> str:
    if isinstance(error, ProviderError):
        return error.code
    return "STOPPED" if isinstance(error, GeneratorExit | asyncio.CancelledError) else "INTERNAL"
