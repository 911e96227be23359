"""Tool calls in an answer: what they become, and what is too much. Their dialects are in test_call_dialects.py."""

import json
from typing import Any

import pytest

from domain.errors import ProviderError, ReplyErrorCode
from domain.models import ArgumentsChunk, FinishChunk, TextChunk, ToolCallChunk
from domain.replies import FinishReason
from providers import calls, errors
from tests.providers.asking import Asking, calls_in
from tests.providers.endpoint import DONE, ScriptedEndpoint, called, delta, entry, finish, said, status, stream

PARIS, OSLO = '{"city": "Paris"}', '{"city": "Oslo"}'


async def _one(endpoint: ScriptedEndpoint, chat: Asking, *frames: bytes) -> tuple[str, str, str]:
    endpoint.replies(stream(*frames, finish("tool_calls"), DONE))
    (call,) = calls_in(await chat.chunks())
    return call


@pytest.mark.parametrize("arguments", [None, "", {"function": {"arguments": None}}], ids=["missing", "empty", "null"])
async def test_a_call_may_be_without_arguments(endpoint: ScriptedEndpoint, chat: Asking, arguments: Any) -> None:
    sent = entry(0, "a", "now", arguments if arguments == "" else None)
    sent["function"] |= arguments["function"] if arguments else {}
    assert await _one(endpoint, chat, called(sent)) == ("a", "now", "")


@pytest.mark.parametrize("more", ["", "\n"])
async def test_an_empty_object_alone_is_the_arguments(endpoint: ScriptedEndpoint, chat: Asking, more: str) -> None:
    frames = [called(entry(0, "a", "now", "{}")), called(entry(0, arguments=more))]
    assert await _one(endpoint, chat, *frames) == ("a", "now", "{}" + more)


async def test_several_calls_without_arguments_are_several_calls(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(called(entry(name="now"), entry(name="now")), finish(), DONE))
    assert calls_in(await chat.chunks()) == [("", "now", ""), ("", "now", "")]


async def test_a_call_of_nothing_is_a_call_all_the_same(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    assert await _one(endpoint, chat, called(entry(0, "a", arguments=PARIS))) == ("a", "", PARIS)


async def test_the_call_of_older_endpoints_is_one_too(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    frames = [delta(function_call={"name": "weather", "arguments": ""}), delta(function_call={"arguments": PARIS})]
    assert await _one(endpoint, chat, *frames) == ("", "weather", PARIS)


@pytest.mark.parametrize("reason", ["tool_calls", "function_call", "stop"])
async def test_an_answer_with_calls_ends_with_stop(endpoint: ScriptedEndpoint, chat: Asking, reason: str) -> None:
    endpoint.replies(stream(called(entry(0, "a", "now")), finish(reason), DONE))
    assert (await chat.finish()).finish_reason is FinishReason.STOP


async def test_calls_in_the_last_frame_count(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(delta("tool_calls", tool_calls=[entry(0, "a", "weather", PARIS)]), DONE))
    assert calls_in(await chat.chunks()) == [("a", "weather", PARIS)]


async def test_calls_after_the_finish_reason_are_not_lost(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(finish("tool_calls"), called(entry(0, "a", "now")), DONE))
    assert calls_in(await chat.chunks()) == [("a", "now", "")]


async def test_text_comes_before_the_calls_that_follow_it(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Let me see."), called(entry(0, "a", "weather", PARIS)), finish("tool_calls"), DONE))
    kinds = [type(chunk) for chunk in await chat.chunks()][1:]
    assert kinds == [TextChunk, ToolCallChunk, ArgumentsChunk, FinishChunk]


async def test_text_comes_after_a_call_that_it_follows(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(called(entry(0, "a", "now")), said("Done."), finish("tool_calls"), DONE))
    assert [type(chunk) for chunk in await chat.chunks()][1:] == [ToolCallChunk, TextChunk, FinishChunk]


@pytest.mark.parametrize("index", [0, None], ids=["with index", "without"])
@pytest.mark.parametrize("ids", [("a", "b"), ("", "")], ids=["with ids", "without ids"])
async def test_a_whole_completion_may_call_tools(
    endpoint: ScriptedEndpoint, chat: Asking, index: int | None, ids: tuple[str, str]
) -> None:
    entries = [entry(index, ids[0], "weather", PARIS), entry(index and index + 1, ids[1], "weather", {"city": "Oslo"})]
    message = {"role": "assistant", "content": None, "tool_calls": entries, "function_call": None}
    endpoint.replies(status(200, {"choices": [{"message": message, "finish_reason": "tool_calls"}]}))
    assert calls_in(await chat.chunks()) == [(ids[0], "weather", PARIS), (ids[1], "weather", OSLO)]


async def test_a_whole_completion_may_call_in_the_old_way(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    message = {"content": "", "function_call": {"name": "weather", "arguments": PARIS}}
    endpoint.replies(status(200, {"choices": [{"message": message, "finish_reason": "function_call"}]}))
    assert calls_in(await chat.chunks()) == [("", "weather", PARIS)]


async def test_what_no_database_stores_is_replaced_in_calls_too(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    frames = [
        called(entry(0, "a\0", "\ud83d")),
        called(entry(0, name="\ude00\0")),
        called(entry(0, arguments='{"a": "\ud83d'), entry(1, "b", "n", "\ud83d")),
        called(entry(0, arguments='\ude00\0"}')),
    ]
    endpoint.replies(stream(*frames, finish(), DONE))
    assert calls_in(await chat.chunks()) == [("a\ufffd", "😀\ufffd", '{"a": "😀\ufffd"}'), ("b", "n", "\ufffd")]


async def test_names_are_cut_and_ids_without_measure_are_none(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    frames = [called(entry(0, "i" * 256, "n" * 300, piece)) for piece in ('{"city": ', '"Paris"}')]
    assert await _one(endpoint, chat, *frames) == ("", "n" * 200, PARIS)


async def test_names_in_pieces_are_cut_too(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    frames = [called(entry(0, name="n" * 150)), called(entry(0, name="m" * 150))]
    assert await _one(endpoint, chat, *frames) == ("", "n" * 150 + "m" * 50, "")


async def test_the_word_null_is_no_id(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    assert await _one(endpoint, chat, called(entry(0, "null", "weather", PARIS))) == ("", "weather", PARIS)


async def test_a_name_that_comes_again_at_the_end_begins_no_call(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    frames = [called(entry(0, "a", "weather", PARIS)), called(entry(0, "", "weather", ""))]
    assert await _one(endpoint, chat, *frames) == ("a", "weather", PARIS)


def _refused(error: ProviderError) -> tuple[ReplyErrorCode, str, bool]:
    return error.code, error.message, error.retryable


TOO_MANY = (ReplyErrorCode.PROVIDER_REJECTED, errors.TOO_MANY_CALLS, False)


@pytest.mark.parametrize(("number", "fine"), [(calls.MAX_CALLS, True), (calls.MAX_CALLS + 1, False)])
async def test_the_calls_of_an_answer_are_limited(
    endpoint: ScriptedEndpoint, chat: Asking, number: int, fine: bool
) -> None:
    endpoint.replies(stream(*[called(entry(i, f"id-{i}", "now", "{}")) for i in range(number)], finish(), DONE))
    if fine:
        assert len(calls_in(await chat.chunks())) == number
    else:
        assert _refused(await chat.failure()) == TOO_MANY


async def test_arguments_without_end_are_not_collected(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    frames = [called(entry(i % 3, arguments="x" * 100_000)) for i in range(11)]
    endpoint.replies(stream(*frames, finish(), DONE))
    assert _refused(await chat.failure()) == TOO_MANY


def _nested(depth: int) -> bytes:
    arguments = b'{"a":' * depth + b"1" + b"}" * depth
    return b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"n","arguments":%b}}]}}]}\n\n' % arguments


async def test_arguments_may_be_deep(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    _, _, arguments = await _one(endpoint, chat, _nested(100))
    assert json.loads(arguments)["a"]["a"]["a"]


@pytest.mark.parametrize("depth", [1_000, 100_000])
async def test_arguments_of_any_depth_break_nothing(endpoint: ScriptedEndpoint, chat: Asking, depth: int) -> None:
    endpoint.replies(stream(_nested(depth), finish(), DONE))
    assert (await chat.failure()).message == errors.BROKE_OFF
