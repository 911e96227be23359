"""What the endpoint is asked: body, parameters and headers of the request."""

import json
from dataclasses import replace
from typing import Any

import pytest

from domain.conversations import ModelParams, Role
from domain.models import ChatRequest, OfferedTool, PromptCall, PromptMessage, RetryChunk, ToolAnswer
from domain.tool_calls import ToolChoice
from providers.completions import Continuation
from tests.providers.asking import KEY, MODEL, Asking, asking, request
from tests.providers.endpoint import WHOLE, ScriptedEndpoint, status, stream


async def test_only_parameters_that_are_given_are_sent(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    await chat.chunks()
    assert endpoint.requests[0].body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_every_parameter_arrives_under_its_name(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    params = ModelParams(temperature=0.0, top_p=0.5, max_tokens=7, stop=("a", "b"), seed=0)
    await chat.chunks(request(params=params))
    sent = endpoint.requests[0].body
    assert {name: sent[name] for name in ("temperature", "top_p", "max_tokens", "stop", "seed")} == {
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 7,
        "stop": ["a", "b"],
        "seed": 0,
    }


@pytest.mark.parametrize("name", ["o1", "o3-mini", "o4-mini", "gpt-5", "gpt-5.1-codex", "openai/gpt-5-mini"])
async def test_reasoning_models_get_their_own_name_for_the_limit(endpoint: ScriptedEndpoint, name: str) -> None:
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint, name) as chat:
        await chat.chunks(request(model=name, params=ModelParams(max_tokens=7)))
    assert endpoint.requests[0].body["max_completion_tokens"] == 7
    assert "max_tokens" not in endpoint.requests[0].body


@pytest.mark.parametrize("name", ["gpt-4o", "o1lama", "llama-o3-merge", "gpt-50x"])
async def test_other_models_get_max_tokens(endpoint: ScriptedEndpoint, name: str) -> None:
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint, name) as chat:
        await chat.chunks(request(model=name, params=ModelParams(max_tokens=7)))
    assert endpoint.requests[0].body["max_tokens"] == 7


async def test_roles_and_several_texts_are_sent_as_the_api_wants(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    messages = (
        PromptMessage(Role.SYSTEM, ("Be brief.",)),
        PromptMessage(Role.USER, ("one", "two")),
        PromptMessage(Role.ASSISTANT, ("Yes.",)),
    )
    await chat.chunks(ChatRequest(MODEL, messages, ModelParams(), "reply_1", "conv_1"))
    assert endpoint.requests[0].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "Yes."},
    ]


async def test_the_key_goes_to_its_own_endpoint(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(WHOLE))
    await chat.chunks()
    assert endpoint.requests[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_the_openai_account_of_the_environment_goes_to_no_other_endpoint(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer secret\nX-Gateway: secret")
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint) as chat:
        await chat.chunks()
    assert endpoint.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "secret" not in json.dumps(dict(endpoint.requests[0].headers))


async def test_an_endpoint_that_refuses_stream_options_is_asked_without_them(
    endpoint: ScriptedEndpoint, chat: Asking
) -> None:
    refusal = status(400, {"error": {"message": "Unknown parameter: stream_options"}})
    endpoint.replies(refusal, stream(WHOLE), stream(WHOLE))
    assert RetryChunk(0) in await chat.chunks()
    await chat.chunks()
    assert ["stream_options" in received.body for received in endpoint.requests] == [True, False, False]


async def asked_to_go_on(endpoint: ScriptedEndpoint, unfinished: str, continuation: Continuation) -> list[Any]:
    """The messages that the endpoint gets."""
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint, continuation=continuation) as chat:
        await chat.chunks(replace(request(params=ModelParams(max_tokens=7)), unfinished=unfinished))
    assert endpoint.requests[0].body["max_tokens"] == 7
    messages: list[Any] = endpoint.requests[0].body["messages"]
    return messages


QUESTION = {"role": "user", "content": "Hello?"}
UNFINISHED = {"role": "assistant", "content": "Hello, my na"}


async def test_an_endpoint_that_continues_a_last_message_gets_the_unfinished_one(endpoint: ScriptedEndpoint) -> None:
    assert await asked_to_go_on(endpoint, "Hello, my na", Continuation.PREFILL) == [QUESTION, UNFINISHED]


async def test_any_other_endpoint_is_asked_to_go_on_where_its_message_stopped(endpoint: ScriptedEndpoint) -> None:
    question, unfinished, wish = await asked_to_go_on(endpoint, "Hello, my na", Continuation.INSTRUCT)
    assert (question, unfinished, wish["role"]) == (QUESTION, UNFINISHED, "user")
    assert all(words in wish["content"] for words in ("exactly where it stopped", "same language", "Do not repeat"))


@pytest.mark.parametrize("continuation", Continuation)
async def test_an_answer_of_which_nothing_was_shown_is_asked_for_as_ever(
    endpoint: ScriptedEndpoint, continuation: Continuation
) -> None:
    assert await asked_to_go_on(endpoint, "", continuation) == [QUESTION]


WEATHER = OfferedTool("weather", "The weather in a city.", {"type": "object", "properties": {"city": {}}})


async def body_of(endpoint: ScriptedEndpoint, asked: ChatRequest) -> dict[str, Any]:
    """What the endpoint gets."""
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint) as chat:
        await chat.chunks(asked)
    return endpoint.requests[-1].body


async def test_tools_are_offered_as_functions(endpoint: ScriptedEndpoint) -> None:
    body = await body_of(endpoint, replace(request(), tools=(WEATHER,)))
    parameters = {"type": "object", "properties": {"city": {}}}
    function = {"name": "weather", "description": "The weather in a city.", "parameters": parameters}
    assert body["tools"] == [{"type": "function", "function": function}]


@pytest.mark.parametrize(
    ("choice", "sent"), [(ToolChoice.AUTO, None), (ToolChoice.NONE, "none"), (ToolChoice.REQUIRED, "required")]
)
async def test_the_choice_of_tools_is_sent_where_it_is_not_the_default(
    endpoint: ScriptedEndpoint, choice: ToolChoice, sent: str | None
) -> None:
    body = await body_of(endpoint, replace(request(), tools=(WEATHER,), tool_choice=choice))
    assert body.get("tool_choice") == sent


@pytest.mark.parametrize("choice", ToolChoice)
async def test_without_tools_nothing_is_said_of_them(endpoint: ScriptedEndpoint, choice: ToolChoice) -> None:
    body = await body_of(endpoint, replace(request(), tool_choice=choice))
    assert not {"tools", "tool_choice"} & set(body)


CALLS = (PromptCall("a", "weather", '{"city": "Paris"}'), PromptCall("b", "now", "{}"))
SENT_CALLS = [
    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
    {"id": "b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
]
ANSWERED = (ToolAnswer("a", "Rain."), ToolAnswer("b", "12:00"))
SENT_ANSWERS = [
    {"role": "tool", "tool_call_id": "a", "content": "Rain."},
    {"role": "tool", "tool_call_id": "b", "content": "12:00"},
]


@pytest.mark.parametrize(
    ("texts", "content"),
    [
        ((), None),
        (("One moment.",), "One moment."),
        (("One", "moment."), [{"type": "text", "text": "One"}, {"type": "text", "text": "moment."}]),
    ],
)
async def test_earlier_calls_and_their_answers_are_sent(
    endpoint: ScriptedEndpoint, texts: tuple[str, ...], content: object
) -> None:
    asked = request()
    messages = (*asked.messages, PromptMessage(Role.ASSISTANT, texts, CALLS), *ANSWERED)
    body = await body_of(endpoint, replace(asked, messages=messages, tools=(WEATHER,)))
    called = {"role": "assistant", "content": content, "tool_calls": SENT_CALLS}
    assert body["messages"] == [QUESTION, called, *SENT_ANSWERS]


@pytest.mark.parametrize(("name", "sent"), [("", "_"), ("get weather!", "get_weather_"), ("n" * 65, "n" * 64)])
async def test_names_that_a_model_made_up_are_sent_as_endpoints_take_them(
    endpoint: ScriptedEndpoint, name: str, sent: str
) -> None:
    asked = request()
    made_up = PromptMessage(Role.ASSISTANT, (), (PromptCall("a", name, "{}"),))
    messages = (*asked.messages, made_up, ToolAnswer("a", "There is no such tool."))
    body = await body_of(endpoint, replace(asked, messages=messages))
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == sent


async def test_an_answer_that_was_cut_after_calls_is_gone_on_with(endpoint: ScriptedEndpoint) -> None:
    asked = request()
    messages = (*asked.messages, PromptMessage(Role.ASSISTANT, (), CALLS), *ANSWERED)
    body = await body_of(endpoint, replace(asked, messages=messages, unfinished="Hello, my na"))
    *_, answered, unfinished, wish = body["messages"]
    assert (answered, unfinished, wish["role"]) == (SENT_ANSWERS[-1], UNFINISHED, "user")


async def _sent_after(endpoint: ScriptedEndpoint, *refusals: str) -> list[Any]:
    """The last request's messages of calls and their answers, when the ones before were refused with these words."""
    endpoint.replies(*(status(400, {"message": text}) for text in refusals), stream(WHOLE), stream(WHOLE))
    asked = request()
    asked = replace(asked, messages=(*asked.messages, PromptMessage(Role.ASSISTANT, (), CALLS), *ANSWERED))
    async with asking(endpoint) as chat:
        await chat.chunks(asked)
        await chat.chunks(asked)
    assert len(endpoint.requests) == len(refusals) + 2
    assert endpoint.requests[-1].body == endpoint.requests[-2].body
    messages: list[Any] = endpoint.requests[-1].body["messages"]
    return messages[1:]


MISTRAL = "Tool call id was a but must be a-z, A-Z, 0-9, with a length of 9."
TEMPLATE = "Tool call IDs should be alphanumeric strings with length 9!"
GEMINI = "Function call is missing a thought_signature in functionCall parts."


@pytest.mark.parametrize("refusal", [MISTRAL, TEMPLATE])
async def test_an_endpoint_that_wants_short_ids_of_calls_gets_them(endpoint: ScriptedEndpoint, refusal: str) -> None:
    called, *answers = await _sent_after(endpoint, refusal)
    ids = [call["id"] for call in called["tool_calls"]]
    assert ids == [answer["tool_call_id"] for answer in answers]
    assert [len(id) == 9 and id.isalnum() and id.isascii() for id in set(ids)] == [True, True]


async def test_an_endpoint_that_wants_signatures_of_calls_gets_a_stand_in(endpoint: ScriptedEndpoint) -> None:
    called, *_ = await _sent_after(endpoint, GEMINI)
    signature = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert called["tool_calls"] == [{**call, "extra_content": signature} for call in SENT_CALLS]


async def test_an_endpoint_may_have_several_wishes(endpoint: ScriptedEndpoint) -> None:
    called, *_ = await _sent_after(endpoint, "Unknown parameter: stream_options", MISTRAL, GEMINI)
    assert "stream_options" not in endpoint.requests[-1].body
    assert {len(call["id"]) for call in called["tool_calls"]} == {9}
    assert all("extra_content" in call for call in called["tool_calls"])


async def test_a_wish_that_was_granted_in_vain_is_a_failure(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(400, MISTRAL), status(400, MISTRAL))
    assert not (await chat.failure()).retryable
    assert len(endpoint.requests) == 2
