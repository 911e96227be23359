"""The same two tool calls as real endpoints stream them. Where the dialects are from is in providers/calls.py."""

import pytest

from tests.providers.asking import Asking, calls_in
from tests.providers.endpoint import DONE, ScriptedEndpoint, called, delta, entry, event, finish, said, stream

PARIS, OSLO = '{"city": "Paris"}', '{"city": "Oslo"}'

TWO = [("a", "weather", PARIS), ("b", "weather", OSLO)]
NO_IDS = [("", "weather", PARIS), ("", "weather", OSLO)]

DIALECTS = {
    "openai": (
        [
            called(entry(0, "a", "weather", "")),
            called(entry(0, arguments='{"city": ')),
            called(entry(0, arguments='"Paris"}')),
            called(entry(1, "b", "weather", "")),
            called(entry(1, arguments='{"city": "Os')),
            called(entry(1, arguments='lo"}')),
        ],
        TWO,
    ),
    "azure, which begins with a frame without choices": (
        [
            event({"choices": [], "prompt_filter_results": []}),
            called(entry(0, "a", "weather", "")),
            called(entry(0, arguments=PARIS)),
            called(entry(1, "b", "weather", "")),
            called(entry(1, arguments=OSLO)),
        ],
        TWO,
    ),
    "groq and mistral, everything in one frame": (
        [called(entry(0, "a", "weather", PARIS), entry(1, "b", "weather", OSLO))],
        TWO,
    ),
    "gemini, without index, a call a frame": (
        [called(entry(None, "a", "weather", PARIS)), called(entry(None, "b", "weather", OSLO))],
        TWO,
    ),
    "without index, in pieces": (
        [
            called(entry(None, "a", "weather", "")),
            called(entry(arguments='{"city": ')),
            called(entry(arguments='"Paris"}')),
            called(entry(None, "b", "weather", "")),
            called(entry(arguments=OSLO)),
        ],
        TWO,
    ),
    "an index that comes after the first frame only": (
        [
            called(entry(None, "a", "weather", "")),
            called(entry(0, arguments=PARIS)),
            called(entry(1, "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "ollama, every index 0": (
        [called(entry(0, "a", "weather", PARIS)), called(entry(0, "b", "weather", OSLO))],
        TWO,
    ),
    "every index 0 in one frame": (
        [called(entry(0, "a", "weather", PARIS), entry(0, "b", "weather", OSLO))],
        TWO,
    ),
    "vllm, an index that restarts, ids once": (
        [
            called(entry(0, "a", "weather", "")),
            called(entry(0, "", arguments='{"city": ')),
            called(entry(0, "", arguments='"Paris"}')),
            called(entry(0, "b", "weather", "")),
            called(entry(0, "", arguments=OSLO)),
        ],
        TWO,
    ),
    "sglang, an index that restarts, ids in every frame": (
        [
            called(entry(0, "a", "weather", "")),
            called(entry(0, "a", arguments=PARIS)),
            called(entry(0, "b", "weather", "")),
            called(entry(0, "b", arguments=OSLO)),
        ],
        TWO,
    ),
    "every index 0, interleaved by ids": (
        [
            called(entry(0, "a", "weather", '{"city": ')),
            called(entry(0, "b", "weather", '{"city": "')),
            called(entry(0, "a", arguments='"Paris"}')),
            called(entry(0, "b", arguments='Oslo"}')),
        ],
        TWO,
    ),
    "older vllm, another id in every frame": (
        [
            called(entry(0, "a", "weather")),
            called(entry(0, "x", arguments='{"city": ')),
            called(entry(0, "y", arguments='"Paris"}')),
            called(entry(1, "b", "weather")),
            called(entry(1, "z", arguments=OSLO)),
        ],
        TWO,
    ),
    "an index with gaps": (
        [called(entry(1, "a", "weather", PARIS)), called(entry(7, "b", "weather", OSLO))],
        TWO,
    ),
    "an index that is a string": (
        [
            called(entry("0", "a", "weather", "")),
            called(entry("0", arguments=PARIS)),
            called(entry("1", "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "interleaved": (
        [
            called(entry(0, "a", "weather", ""), entry(1, "b", "weather", "")),
            called(entry(1, arguments='{"city": ')),
            called(entry(0, arguments='{"city": "Par')),
            called(entry(1, arguments='"Oslo"}'), entry(0, arguments='is"}')),
        ],
        TWO,
    ),
    "minimax, name and id in every frame": (
        [
            called(entry(0, "a", "weather", "")),
            called(entry(0, "a", "weather", '{"city": ')),
            called(entry(0, "a", "weather", '"Paris"}')),
            called(entry(1, "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "a name in every frame, and no ids": (
        [
            called(entry(0, name="weather", arguments="")),
            called(entry(0, name="weather", arguments='{"city": ')),
            called(entry(0, name="weather", arguments='"Paris"}')),
            called(entry(1, name="weather", arguments=OSLO)),
        ],
        NO_IDS,
    ),
    "gemini, a name in pieces": (
        [
            called(entry(0, "a", "wea")),
            called(entry(0, name="ther")),
            called(entry(0, arguments=PARIS)),
            called(entry(1, "b", "weat")),
            called(entry(1, name="her", arguments=OSLO)),
        ],
        TWO,
    ),
    "lm studio, empty names later": (
        [
            called(entry(0, "a", "weather", "")),
            called(entry(0, name="", arguments=PARIS)),
            called(entry(1, "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "llama.cpp and minimax, arguments as an object": (
        [
            called(entry(0, "a", "weather", {"city": "Paris"})),
            called(entry(1, "b", "weather", {"city": "Oslo"})),
        ],
        TWO,
    ),
    "litellm before claude, an empty object first": (
        [
            called(entry(0, "a", "weather", "{}")),
            called(entry(0, arguments='{"city": ')),
            called(entry(0, arguments='"Paris"}')),
            called(entry(1, "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "mistral, the word null as an id": (
        [
            called(entry(0, "a", "weather", '{"city": ')),
            called(entry(0, "null", arguments='"Paris"}')),
            called(entry(1, "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "neither index nor id": (
        [called(entry(name="weather", arguments=PARIS)), called(entry(name="weather", arguments=OSLO))],
        NO_IDS,
    ),
    "neither index nor id, in one frame": (
        [called(entry(name="weather", arguments=PARIS), entry(name="weather", arguments=OSLO))],
        NO_IDS,
    ),
    "an id that comes after the name": (
        [
            called(entry(0, None, "weather")),
            called(entry(0, "a", arguments=PARIS)),
            called(entry(1, "b", "weather", OSLO)),
        ],
        TWO,
    ),
    "ids that are numbers": (
        [called(entry(0, 7, "weather", PARIS)), called(entry(1, 8, "weather", OSLO))],
        [("7", "weather", PARIS), ("8", "weather", OSLO)],
    ),
    "entries that are null or say nothing": (
        [
            called(None, entry(0, "a", "weather", PARIS)),
            called(entry(2, "", "", ""), entry(1, "b", "weather", OSLO)),
            called(entry(0), entry(5)),
            delta(tool_calls=None, function_call=None),
            delta(tool_calls=[]),
        ],
        TWO,
    ),
    "dynamo, line ends between the calls": (
        [called(entry(0, "a", "weather", PARIS)), said("\n"), called(entry(0, "b", "weather", OSLO)), said("\n")],
        TWO,
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_says_the_same(endpoint: ScriptedEndpoint, chat: Asking, dialect: str) -> None:
    frames, expected = DIALECTS[dialect]
    endpoint.replies(stream(*frames, finish("tool_calls"), DONE))
    assert calls_in(await chat.chunks()) == expected
