"""The chat model on a real endpoint: what is sent, and what an answer that goes well becomes."""

import asyncio
from contextlib import aclosing

import pytest

from domain.errors import ReplyErrorCode
from domain.models import (
    FinishChunk,
    Model,
    ReasoningChunk,
    RequestStarted,
    TextChunk,
)
from domain.replies import FinishReason, Usage
from providers.chat import ChatOptions, OpenAIChatModel, Provider
from tests.doubles import RecordingTelemetry
from tests.patience import PATIENCE_SECONDS
from tests.providers.asking import KEY, Asking, asking, request
from tests.providers.endpoint import (
    COMPLETION_ID,
    DONE,
    REQUEST_ID,
    RESPONSE_MODEL,
    WHOLE,
    ScriptedEndpoint,
    Stall,
    delta,
    finish,
    said,
    scripted_endpoint,
    status,
    stream,
    used,
)


async def test_an_answer_is_a_start_its_text_and_a_finish(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    assert await chat.chunks() == [
        RequestStarted(REQUEST_ID),
        TextChunk("Hello there"),
        FinishChunk(FinishReason.STOP, None, RESPONSE_MODEL, COMPLETION_ID),
    ]


async def test_a_piece_is_shown_before_the_next_one_is_sent(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    gate = asyncio.Event()
    endpoint.replies(stream(said("first"), gate, said("second"), finish()))
    async with aclosing(chat.model.stream(request())) as chunks:
        shown = []
        async for chunk in chunks:
            if isinstance(chunk, TextChunk):
                shown.append((chunk.text, gate.is_set()))
                gate.set()
    assert shown == [("first", False), ("second", True)]


async def test_an_endpoint_without_request_ids_is_fine(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}))
    assert (await chat.chunks())[0] == RequestStarted(None)


async def test_usage_comes_after_the_finish_reason(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    endpoint.replies(stream(said("Hi"), finish(), used(prompt_tokens=10, completion_tokens=7, **details), DONE))
    assert (await chat.finish()).usage == Usage(10, 7, cached_input_tokens=3, reasoning_tokens=4)


async def test_unintelligible_usage_counts_as_none(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), finish(), used(prompt_tokens="many"), DONE))
    assert (await chat.finish()).usage is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart_from_text(endpoint: ScriptedEndpoint, chat: Asking, field: str) -> None:
    endpoint.replies(stream(delta(**{field: "Hm."}), said("Hi"), finish(), DONE))
    assert (await chat.chunks())[1:3] == [ReasoningChunk("Hm."), TextChunk("Hi")]


async def test_a_refusal_is_text_with_a_reason_of_its_own(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(delta(refusal="I will not."), finish("stop"), DONE))
    text, end = (await chat.chunks())[-2:]
    assert text == TextChunk("I will not.")
    assert isinstance(end, FinishChunk)
    assert end.finish_reason is FinishReason.REFUSAL


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("tool_calls", FinishReason.STOP),
        ("function_call", FinishReason.STOP),
        ("eos", FinishReason.STOP),
    ],
)
async def test_finish_reasons_have_one_meaning_each(
    endpoint: ScriptedEndpoint, chat: Asking, told: str, meant: FinishReason
) -> None:
    endpoint.replies(stream(said("Hi"), finish(told), DONE))
    assert (await chat.finish()).finish_reason is meant


async def test_the_last_frame_may_carry_text_and_reason(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hel"), delta("stop", content="lo"), DONE))
    assert await chat.text() == "Hello"


async def test_empty_and_absent_content_give_no_chunk(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(delta(role="assistant", content=None), said(""), delta(), said("Hi"), finish(), DONE))
    assert [chunk for chunk in await chat.chunks() if isinstance(chunk, TextChunk)] == [TextChunk("Hi")]


async def test_a_whole_completion_in_place_of_a_stream_is_taken(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    completion = {
        "id": COMPLETION_ID,
        "model": RESPONSE_MODEL,
        "choices": [{"message": {"role": "assistant", "content": "All at once."}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
    }
    endpoint.replies(status(200, completion))
    assert (await chat.chunks())[1:] == [
        TextChunk("All at once."),
        FinishChunk(FinishReason.LENGTH, Usage(5, 3), RESPONSE_MODEL, COMPLETION_ID),
    ]


async def test_the_end_needs_no_done_after_a_finish_reason(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), finish()))
    assert (await chat.finish()).finish_reason is FinishReason.STOP


async def test_text_after_a_finish_reason_is_not_lost(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(delta("stop", content="one"), delta("stop", content=" two"), DONE))
    assert await chat.text() == "one two"


async def test_a_connection_that_stays_open_after_done_delays_nobody(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(WHOLE, Stall()))
    async with asking(endpoint, options=ChatOptions(read_timeout=300)) as chat, asyncio.timeout(PATIENCE_SECONDS):
        assert (await chat.finish()).finish_reason is FinishReason.STOP


async def test_one_connection_serves_one_answer_after_the_other(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE), stream(WHOLE))
    await chat.chunks()
    await chat.chunks()
    assert endpoint.requests[0].connection == endpoint.requests[1].connection


async def test_a_connection_that_was_closed_in_spite_of_promises_is_nobodys_failure(
    endpoint: ScriptedEndpoint, chat: Asking
) -> None:
    endpoint.replies(*[stream(WHOLE, leave=True)] * 20)
    for _ in range(20):
        assert await chat.text() == "Hello there"


async def test_the_last_event_needs_no_blank_line(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hi"), finish().rstrip()))
    assert await chat.text() == "Hi"


async def test_each_model_is_asked_of_its_own_provider(endpoint: ScriptedEndpoint) -> None:
    async with scripted_endpoint() as other:
        other.replies(stream(said("other"), finish()))
        model = OpenAIChatModel(
            [
                Provider("one", endpoint.base_url, "", (Model("a", "one", is_default=True),)),
                Provider("two", other.base_url, "", (Model("b", "two"),)),
            ],
            ChatOptions(),
            RecordingTelemetry(),
        )
        chunks = [chunk async for chunk in model.stream(request(model="b"))]
        await model.aclose()
    assert TextChunk("other") in chunks
    assert endpoint.requests == []


def test_a_name_that_two_providers_offer_is_refused_at_once() -> None:
    providers = [Provider(name, "http://127.0.0.1:9/v1", "", (Model("a", name),)) for name in ("one", "two")]
    with pytest.raises(ValueError, match="one provider only"):
        OpenAIChatModel(providers, ChatOptions(), RecordingTelemetry())


def test_a_provider_keeps_its_key_out_of_its_repr() -> None:
    assert KEY not in repr(Provider("test", "http://127.0.0.1:9/v1", KEY, ()))


async def test_a_model_nobody_offers_is_refused_without_a_request(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    error = await chat.failure(request(model="unheard-of"))
    assert error.code is ReplyErrorCode.PROVIDER_REJECTED
    assert endpoint.requests == []
