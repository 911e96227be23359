"""One OpenAI-compatible endpoint and one request to it: connect, read within time limits, report, clean up.

AsyncOpenAI says what a request looks like (keys, addresses, headers, proxies) and holds the connections; once it has,
each request is that one with another body, and the stream is read as bytes: a fifth of what its objects cost. Knows
nothing of other providers and never makes a request twice.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx2
import msgspec
from openai import APIStatusError, AsyncOpenAI, DefaultAioHttpClient
from openai._models import FinalRequestOptions

from domain.errors import ProviderError
from domain.models import ChatChunk, ChatRequest, FinishChunk, Model, RequestStarted
from domain.ports import ProviderCall, Telemetry
from domain.replies import Usage
from providers.answer import Answer
from providers.body import body_of
from providers.completions import Continuation, Demand, request_body
from providers.errors import never_sent, option_refused, provider_failures
from providers.frames import CompletionReader

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_OFFICIAL_HOST = "api.openai.com"
_CONNECTIONS = httpx2.Limits(max_connections=10_000, keepalive_expiry=30.0)
"""How many replies are written at a time is decided elsewhere: nobody shall wait for a connection here."""


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
        self._client = _client(provider, limits)
        self._pattern = self._client._build_request(
            FinalRequestOptions(method="post", url="/chat/completions", json_data={})
        )
        del self._pattern.headers["content-length"]

    async def close(self) -> None:
        await self._client.close()

    async def stream(self, request: ChatRequest, deadline: float) -> AsyncGenerator[ChatChunk, None]:
        """One request, until `deadline` on the event loop's clock at most. Raises ProviderError.

        When the finish reason has arrived the reply is whole: whatever fails after it costs only the usage.
        """
        reader = CompletionReader()
        with CallMeter(self._telemetry, request, reader) as meter:
            async with self._answer(request, deadline) as answer:
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

    @asynccontextmanager
    async def _answer(self, request: ChatRequest, deadline: float) -> AsyncIterator[Answer]:
        with provider_failures(self._key):
            accepted_by = asyncio.get_running_loop().time() + self._limits.connect + self._limits.read
            async with asyncio.timeout_at(min(deadline, accepted_by)):
                response = await self._accepted(request)
            try:
                yield Answer(response.headers, body_of(response), self._limits.read, deadline)
            finally:
                await response.aclose()

    async def _accepted(self, request: ChatRequest) -> httpx2.Response:
        """Raises OptionRefusedError when the endpoint turns out to demand something, which it is given from then on."""
        demands = self._demands
        try:
            return await self._opened(msgspec.json.encode(request_body(request, demands, self._continuation)))
        except APIStatusError as error:
            refusal = error.response.text.lower()
            new = next((demand for demand in Demand if demand in refusal and demand not in demands), None)
            if new is None:
                raise
            self._demands |= {new}
            raise option_refused(new) from error

    async def _opened(self, body: bytes, tries: int = 3) -> httpx2.Response:
        """Some servers close connections that they promised to keep; what never left on one goes over another.

        Raises APIStatusError, and what the HTTP client raises.
        """
        pattern = self._pattern
        request = httpx2.Request(
            pattern.method,
            pattern.url,
            headers=pattern.headers,
            stream=httpx2.ByteStream(body),
            extensions=pattern.extensions,
        )
        request.read()
        try:
            response = await self._client._client.send(request, stream=True)
        except httpx2.RequestError as error:
            if tries > 1 and never_sent(error):
                return await self._opened(body, tries - 1)
            raise
        if response.is_success:
            return response
        async with aclosing(response):
            await response.aread()
        raise APIStatusError(f"HTTP {response.status_code}", response=response, body=None)


def _client(provider: Provider, limits: TimeLimits) -> AsyncOpenAI:
    """Follows no redirects, makes nothing twice, and sends the environment's OpenAI account only to OpenAI."""
    host = urlsplit(provider.base_url).hostname or ""
    # No limit on reads: the client would wind its clock up for every packet, where `Answer` does for every read.
    timeout = httpx2.Timeout(connect=limits.connect, read=None, write=limits.read, pool=limits.connect)
    client = AsyncOpenAI(
        base_url=provider.base_url,
        api_key=provider.api_key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(
            timeout=timeout, limits=_CONNECTIONS, follow_redirects=False, trust_env=host not in _LOOPBACK
        ),
    )
    if host != _OFFICIAL_HOST:
        client.organization = client.project = None
    return client


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
