"""Leaving a stream early, and what the operator is told about each request."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from domain.models import ChatChunk, FinishChunk, TextChunk
from domain.replies import Usage
from tests.patience import PATIENCE_SECONDS
from tests.providers.asking import Asking, request
from tests.providers.endpoint import (
    DONE,
    WHOLE,
    Cut,
    ScriptedEndpoint,
    Stall,
    finish,
    said,
    silence,
    status,
    stream,
    used,
)


async def _until_text(chat: Asking) -> AsyncGenerator[ChatChunk, None]:
    chunks = chat.model.stream(request())
    async for chunk in chunks:
        if isinstance(chunk, TextChunk):
            break
    return chunks


async def test_closing_the_stream_closes_the_request(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), Stall()))
    await (await _until_text(chat)).aclose()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await endpoint.client_left.wait()


async def test_closing_the_stream_at_its_start_closes_the_request(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(Stall()))
    chunks = chat.model.stream(request())
    await anext(chunks)
    await chunks.aclose()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await endpoint.client_left.wait()


async def test_cancelling_the_reader_closes_the_request(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), Stall()))
    chunks = await _until_text(chat)
    reading = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(PATIENCE_SECONDS):
        await endpoint.client_left.wait()


async def test_cancelling_before_the_answer_closes_the_request(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(silence)
    reading = asyncio.create_task(chat.chunks())
    await endpoint.asked.wait()
    reading.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await endpoint.client_left.wait()


async def test_a_closed_stream_counts_as_stopped(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), Stall()))
    await (await _until_text(chat)).aclose()
    assert [call.outcome for call in chat.telemetry.calls] == ["STOPPED"]


async def test_a_cancelled_stream_counts_as_stopped(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), Stall()))
    chunks = await _until_text(chat)
    reading = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    assert [call.outcome for call in chat.telemetry.calls] == ["STOPPED"]


async def test_a_stream_left_at_its_last_chunk_counts_as_finished(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    chunks = chat.model.stream(request())
    async for chunk in chunks:
        if isinstance(chunk, FinishChunk):
            break
    await chunks.aclose()
    assert [call.outcome for call in chat.telemetry.calls] == ["STOP"]


async def test_a_success_is_told_once_with_its_usage(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), finish("length"), used(prompt_tokens=3, completion_tokens=1), DONE))
    await chat.chunks()
    assert [(call.outcome, call.usage) for call in chat.telemetry.calls] == [("LENGTH", Usage(3, 1))]


async def test_the_time_of_the_first_token_lies_within_the_whole(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    await chat.chunks()
    (call,) = chat.telemetry.calls
    assert call.first_token_seconds is not None
    assert 0 < call.first_token_seconds <= call.seconds


async def test_a_failure_is_told_once_with_its_code(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), Cut()))
    await chat.failure()
    assert [call.outcome for call in chat.telemetry.calls] == ["PROVIDER_UNAVAILABLE"]


async def test_usage_that_nobody_told_is_an_estimate(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(500))
    await chat.failure()
    assert chat.telemetry.calls[0].usage.estimated
