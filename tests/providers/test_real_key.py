"""Opt-in: the real OpenAI API. Runs only where TERTULIA_TEST_OPENAI_API_KEY is set; costs a few tokens."""

import os
from collections.abc import AsyncIterator

import pytest

from domain.conversations import ModelParams
from domain.errors import ProviderError, ReplyErrorCode
from domain.models import FinishChunk, Model, RequestStarted, TextChunk
from providers.chat import ChatOptions, OpenAIChatModel, Provider
from tests.doubles import RecordingTelemetry
from tests.providers.asking import request

KEY = os.environ.get("TERTULIA_TEST_OPENAI_API_KEY", "")
MODEL = os.environ.get("TERTULIA_TEST_OPENAI_MODEL", "gpt-4o-mini")

pytestmark = pytest.mark.skipif(not KEY, reason="no real key: set TERTULIA_TEST_OPENAI_API_KEY to ask the real API")


@pytest.fixture
async def chat() -> AsyncIterator[OpenAIChatModel]:
    provider = Provider(
        "openai", "https://api.openai.com/v1", KEY, (Model(MODEL, "openai"), Model("no-such", "openai"))
    )
    chat = OpenAIChatModel([provider], ChatOptions(), RecordingTelemetry())
    yield chat
    await chat.aclose()


async def test_the_real_api_answers_with_text_usage_and_request_id(chat: OpenAIChatModel) -> None:
    asked = request("Say the word mango and nothing else.", model=MODEL, params=ModelParams(max_tokens=20))
    chunks = [chunk async for chunk in chat.stream(asked)]
    started, end = chunks[0], chunks[-1]
    assert isinstance(started, RequestStarted)
    assert started.request_id
    assert isinstance(end, FinishChunk)
    assert end.usage is not None
    assert "mango" in "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk)).lower()


async def test_the_real_api_refuses_a_model_it_does_not_have(chat: OpenAIChatModel) -> None:
    with pytest.raises(ProviderError) as caught:
        [chunk async for chunk in chat.stream(request(model="no-such"))]
    assert caught.value.code is ReplyErrorCode.PROVIDER_REJECTED
