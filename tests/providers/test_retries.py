"""When a failed request is made again, after how long, and how that is announced."""

import pytest

from domain.errors import ProviderError, ReplyErrorCode
from domain.models import RequestStarted, RetryChunk, TextChunk
from providers.chat import ChatOptions
from providers.retries import RetryPolicy
from tests.providers.asking import asking, request
from tests.providers.endpoint import (
    WHOLE,
    Cut,
    ScriptedEndpoint,
    called,
    delta,
    entry,
    said,
    status,
    stream,
)

RETRYING = ChatOptions(read_timeout=5, max_retries=2, retry_base=0.5, retry_cap=8)


def failed(*, retryable: bool = True, retry_after: float | None = None) -> ProviderError:
    code = ReplyErrorCode.PROVIDER_UNAVAILABLE
    return ProviderError(code, "No.", retryable=retryable, retry_after=retry_after)


async def test_a_failure_before_the_text_is_announced_waited_for_and_made_again(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(429, headers={"Retry-After": "2"}), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        assert (await chat.chunks())[:3] == [RetryChunk(2000), RequestStarted("req-1"), TextChunk("Hello there")]
        assert chat.pauses == [2.0]


async def test_a_retry_is_announced_before_the_wait(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(500), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        chunks = chat.model.stream(request())
        assert isinstance(await anext(chunks), RetryChunk)
        assert chat.pauses == []
        await chunks.aclose()


async def test_a_stream_that_breaks_before_any_text_is_made_again(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(delta(role="assistant"), Cut()), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        assert await chat.text() == "Hello there"


@pytest.mark.parametrize(
    "shown",
    [said("Hel"), delta(reasoning_content="Hm."), called(entry(0, "a", "weather", "{"))],
    ids=["text", "reasoning", "call"],
)
async def test_nothing_is_made_again_once_something_was_shown(endpoint: ScriptedEndpoint, shown: bytes) -> None:
    endpoint.replies(stream(shown, Cut()), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        await chat.failure()
    assert len(endpoint.requests) == 1


async def test_a_stream_that_breaks_within_the_name_of_a_call_is_made_again(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(called(entry(0, "a", "wea")), Cut()), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        assert await chat.text() == "Hello there"


async def test_what_is_not_retryable_is_not_made_again(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(401), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        await chat.failure()
    assert len(endpoint.requests) == 1


async def test_retries_come_to_an_end(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(*[status(500)] * 5)
    async with asking(endpoint, options=RETRYING) as chat:
        await chat.failure()
    assert len(endpoint.requests) == 3


async def test_a_long_wait_is_left_to_the_user(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(429, headers={"Retry-After": "31"}), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        error = await chat.failure()
    assert (error.retry_after, len(endpoint.requests)) == (31.0, 1)


async def test_no_retry_begins_after_the_time_for_the_whole_stream(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(429, headers={"Retry-After": "20"}), stream(WHOLE))
    async with asking(endpoint, options=ChatOptions(total_timeout=10)) as chat:
        await chat.failure()
    assert len(endpoint.requests) == 1


async def test_telemetry_hears_of_every_request_and_every_retry(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(500), status(429), stream(WHOLE))
    async with asking(endpoint, options=RETRYING) as chat:
        await chat.chunks()
        calls = [call.outcome for call in chat.telemetry.calls]
        assert calls == ["PROVIDER_UNAVAILABLE", "PROVIDER_RATE_LIMITED", "STOP"]
        assert len(chat.telemetry.retries) == 2


async def test_a_refused_option_is_not_counted_as_a_retry(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(400, "no stream_options"), stream(WHOLE))
    async with asking(endpoint, options=ChatOptions(max_retries=0)) as chat:
        assert await chat.text() == "Hello there"


@pytest.mark.parametrize(("retries", "longest"), [(0, 0.5), (1, 1.0), (3, 4.0), (10, 8.0)])
def test_waits_are_spread_over_a_span_that_doubles_up_to_a_cap(retries: int, longest: float) -> None:
    policy = RetryPolicy(max_retries=20, base=0.5, cap=8.0)
    delays = [policy.delay(retries, failed()) or 0.0 for _ in range(300)]
    assert longest * 0.8 < max(delays) <= longest
    assert min(delays) < longest * 0.2


def test_a_wait_that_the_endpoint_names_is_kept_exactly() -> None:
    assert RetryPolicy().delay(0, failed(retry_after=30.0)) == 30.0


def test_without_retries_the_first_failure_is_final() -> None:
    assert RetryPolicy(max_retries=0).delay(0, failed()) is None
