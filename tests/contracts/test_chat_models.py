"""The contract of the ChatModel port, for every ChatModel: the real adapter, the echo, and the double of the tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from domain.errors import ProviderError, ReplyErrorCode
from domain.models import ChatChunk, ChatRequest, FinishChunk, ReasoningChunk, RequestStarted, TextChunk
from domain.ports import ChatModel
from domain.replies import FinishReason
from domain.seam import Seam
from providers.echo import EchoChatModel
from tests.doubles import ScriptedModel, calling
from tests.providers.asking import asking, calls_in, request
from tests.providers.endpoint import DONE, WHOLE, called, entry, finish, said, scripted_endpoint, stream


@asynccontextmanager
async def adapter() -> AsyncIterator[ChatModel]:
    async with scripted_endpoint() as endpoint, asking(endpoint) as chat:
        endpoint.replies(stream(WHOLE), stream(WHOLE))
        yield chat.model


@asynccontextmanager
async def echo() -> AsyncIterator[ChatModel]:
    yield EchoChatModel(pause=0)


@asynccontextmanager
async def scripted() -> AsyncIterator[ChatModel]:
    yield ScriptedModel()


PARIS, OSLO = '{"city": "Paris"}', '{"city": "Oslo"}'


@asynccontextmanager
async def calling_adapter() -> AsyncIterator[ChatModel]:
    first, second = called(entry(0, "call-0", "weather", "")), called(entry(1, "call-1", "weather", OSLO))
    steps = (said("Hm."), first, called(entry(0, arguments=PARIS)), second, called(entry(2, "call-2", "now")))
    async with scripted_endpoint() as endpoint, asking(endpoint) as chat:
        endpoint.replies(stream(*steps, finish("tool_calls"), DONE))
        yield chat.model


@asynccontextmanager
async def calling_double() -> AsyncIterator[ChatModel]:
    yield ScriptedModel(calling(("weather", PARIS), ("weather", OSLO), ("now", ""), text="Hm."))


Making = Callable[[], AbstractAsyncContextManager[ChatModel]]


@pytest.fixture(params=[adapter, echo, scripted], ids=["adapter", "echo", "scripted"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[ChatModel]:
    making: Making = request.param
    async with making() as model:
        yield model


@pytest.fixture
def asked(model: ChatModel) -> ChatRequest:
    return request("Hello?", model=model.models()[0].name)


async def _chunks(model: ChatModel, asked: ChatRequest) -> list[ChatChunk]:
    return [chunk async for chunk in model.stream(asked)]


def test_exactly_one_model_is_the_default(model: ChatModel) -> None:
    assert sum(offered.is_default for offered in model.models()) == 1


async def test_the_first_chunk_tells_that_the_request_was_accepted(model: ChatModel, asked: ChatRequest) -> None:
    assert isinstance((await _chunks(model, asked))[0], RequestStarted)


async def test_the_last_chunk_is_the_finish_and_the_only_one(model: ChatModel, asked: ChatRequest) -> None:
    ends = [isinstance(chunk, FinishChunk) for chunk in await _chunks(model, asked)]
    assert ends == [False] * (len(ends) - 1) + [True]


async def test_no_piece_is_empty(model: ChatModel, asked: ChatRequest) -> None:
    pieces = [chunk for chunk in await _chunks(model, asked) if isinstance(chunk, TextChunk | ReasoningChunk)]
    assert pieces
    assert all(piece.text for piece in pieces)


async def test_a_closed_stream_yields_nothing_more(model: ChatModel, asked: ChatRequest) -> None:
    chunks = model.stream(asked)
    async with aclosing(chunks):
        await anext(chunks)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def _text(model: ChatModel, asked: ChatRequest) -> str:
    return "".join([chunk.text for chunk in await _chunks(model, asked) if isinstance(chunk, TextChunk)])


@pytest.mark.parametrize("share", [0.3, 0.7, 1])
async def test_an_unfinished_answer_and_what_the_seam_leaves_of_its_continuation_are_the_whole(
    model: ChatModel, asked: ChatRequest, share: float
) -> None:
    whole = await _text(model, asked)
    shown = whole[: int(len(whole) * share)]
    seam = Seam(shown)
    assert shown + seam.feed(await _text(model, replace(asked, unfinished=shown))) + seam.end() == whole


async def test_a_model_that_is_not_offered_is_refused(model: ChatModel, asked: ChatRequest) -> None:
    with pytest.raises(ProviderError) as caught:
        await _chunks(model, replace(asked, model="unheard-of"))
    assert (caught.value.code, caught.value.retryable) == (ReplyErrorCode.PROVIDER_REJECTED, False)


async def test_streams_do_not_disturb_each_other(model: ChatModel, asked: ChatRequest) -> None:
    first, second = model.stream(asked), model.stream(asked)
    both = [(await anext(first), await anext(second)) for _ in range(2)]
    assert all(one == other for one, other in both)
    for chunks in (first, second):
        async for chunk in chunks:
            last = chunk
        assert isinstance(last, FinishChunk)


@pytest.fixture(params=[calling_adapter, calling_double], ids=["adapter", "scripted"])
async def caller(request: pytest.FixtureRequest) -> AsyncIterator[ChatModel]:
    """A model that says something and calls three tools."""
    making: Making = request.param
    async with making() as model:
        yield model


async def test_calls_begin_once_each_in_their_order_and_then_get_their_arguments(caller: ChatModel) -> None:
    calls = calls_in(await _chunks(caller, request(model=caller.models()[0].name)))
    assert calls == [("call-0", "weather", PARIS), ("call-1", "weather", OSLO), ("call-2", "now", "")]


async def test_an_answer_that_stopped_for_its_calls_has_the_reason_stop(caller: ChatModel) -> None:
    end = (await _chunks(caller, request(model=caller.models()[0].name)))[-1]
    assert isinstance(end, FinishChunk)
    assert end.finish_reason is FinishReason.STOP
