"""What the echo says. That it behaves like any other model is in tests/contracts/test_chat_models.py."""

from dataclasses import replace

from domain.conversations import ModelParams, Role
from domain.models import ChatRequest, PromptMessage, TextChunk, ToolAnswer
from providers.echo import ECHO_MODEL, EchoChatModel
from providers.local import LOCAL_MODEL
from tests.providers.asking import request


async def _say(asked: ChatRequest) -> list[str]:
    stream = EchoChatModel(pause=0).stream(asked)
    return [chunk.text async for chunk in stream if isinstance(chunk, TextChunk)]


async def test_the_echo_repeats_what_was_said_last() -> None:
    messages = tuple(PromptMessage(role, (role.lower(),)) for role in (Role.USER, Role.ASSISTANT))
    again = PromptMessage(Role.USER, ("  Two  words,\nnew line ", "and {more}"))
    said = "".join(await _say(ChatRequest(ECHO_MODEL.name, (*messages, again), ModelParams(), "reply_1", "conv_1")))
    assert said.endswith("You said:   Two  words,\nnew line \n\nand {more}")


async def test_the_echo_names_the_cure() -> None:
    said = "".join(await _say(request(model=ECHO_MODEL.name)))
    assert all(word in said for word in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "make run", "not a language model"))


async def test_the_echo_speaks_word_by_word() -> None:
    assert all(len(piece.split()) == 1 for piece in await _say(request(model=ECHO_MODEL.name)))


async def test_the_echo_answers_a_conversation_without_a_user() -> None:
    said = await _say(
        ChatRequest(ECHO_MODEL.name, (PromptMessage(Role.SYSTEM, ("Be kind.",)),), ModelParams(), "r", "c")
    )
    assert said[-1] == " nothing."


async def test_the_echo_overhears_what_came_of_tools() -> None:
    asked = request("Hello!", model=ECHO_MODEL.name)
    said = await _say(replace(asked, messages=(*asked.messages, ToolAnswer("a", "Rain."))))
    assert said[-1] == " Hello!"


def test_neither_the_echo_nor_the_demo_model_calls_tools() -> None:
    assert [model.calls_tools for model in (ECHO_MODEL, LOCAL_MODEL)] == [False, False]


async def test_the_echo_goes_on_after_what_was_shown() -> None:
    asked = request("Two  words \n", model=ECHO_MODEL.name)
    whole = "".join(await _say(asked))
    for shown in (whole[:10], whole[:-2], whole):
        assert shown + "".join(await _say(replace(asked, unfinished=shown))) == whole


async def test_the_echo_says_everything_where_something_else_was_shown() -> None:
    asked = request(model=ECHO_MODEL.name)
    assert await _say(replace(asked, unfinished="Once upon a time")) == await _say(asked)
