"""The making of a reply: what is stored, whichever way it ends."""

import asyncio
from pathlib import Path

import pytest

from domain import generation
from domain.conversations import GenerationSettings, ModelParams, PartKind
from domain.errors import ProviderError, ReplyErrorCode
from domain.events import Retrying
from domain.models import FinishChunk, ReasoningChunk, RequestStarted, RetryChunk, TextChunk
from domain.replies import FinishReason, Recovery, ReplyStatus, Usage
from tertulia.services import open_services
from tests.domain.conftest import Talk
from tests.doubles import ScriptedModel, Step, WordCounter, answer
from tests.serving import settings_for

RATE_LIMITED = ProviderError(ReplyErrorCode.PROVIDER_RATE_LIMITED, "Busy.", retryable=True, retry_after=7)


async def test_the_providers_word_on_usage_is_stored_as_exact(talk: Talk, model: ScriptedModel) -> None:
    model.play(answer("Hi", usage=Usage(11, 2, 5, 1)))
    reply = (await talk.say()).reply
    assert reply is not None
    assert reply.usage == Usage(11, 2, 5, 1, estimated=False)
    assert (reply.response_model, reply.completion_id, reply.request_id) == ("scripted-1", "completion-1", "request-1")


async def test_without_it_our_own_count_is_stored_as_an_estimate(talk: Talk, model: ScriptedModel) -> None:
    model.play(answer("one two ", "three"))
    reply = await talk.say("four words are here")
    assert reply.reply is not None
    assert reply.reply.usage is not None
    assert reply.reply.usage.estimated
    assert reply.reply.usage.output_tokens == 3
    assert reply.token_count == 3


async def test_reasoning_is_a_part_of_its_own_and_not_in_the_text(talk: Talk, model: ScriptedModel) -> None:
    end = FinishChunk(FinishReason.STOP, None, None, None)
    model.play([RequestStarted(None), ReasoningChunk("hm "), ReasoningChunk("hm"), TextChunk("Yes"), end])
    reply = await talk.say()
    assert [(p.kind, p.text) for p in reply.parts] == [(PartKind.REASONING, "hm hm"), (PartKind.TEXT, "Yes")]
    assert reply.parts[0].duration_ms is not None
    assert reply.text == "Yes"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before a cut answer is asked for again."""
    monkeypatch.setattr(generation, "CUT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(generation, "LONGEST_PAUSE_SECONDS", 0.0)


CUT = ProviderError(ReplyErrorCode.PROVIDER_UNAVAILABLE, "It broke off.", retryable=True)


def cut_after(text: str) -> list[Step]:
    return [RequestStarted(None), TextChunk(text), CUT]


@pytest.mark.usefixtures("at_once")
async def test_an_answer_that_was_cut_is_asked_for_again_from_where_it_stopped(
    talk: Talk, model: ScriptedModel
) -> None:
    model.play(cut_after("one two "), cut_after("three "), answer("four"))
    reply = await talk.say("four words are here")
    assert (reply.text, len(reply.parts)) == ("one two three four", 1)
    assert [request.unfinished for request in model.requests] == ["", "one two ", "one two three "]
    assert reply.reply is not None
    assert (reply.reply.attempt, reply.reply.requests) == (1, 3)


@pytest.mark.usefixtures("at_once")
async def test_the_usage_of_every_request_is_added_up(talk: Talk, model: ScriptedModel) -> None:
    model.play(cut_after("one two "), answer("three", usage=Usage(100, 10)))
    reply = (await talk.say("four words are here")).reply
    assert reply is not None
    system, question, overhead = 9, 4, 8
    assert reply.usage == Usage(system + question + overhead + 100, 2 + 10, estimated=True)


@pytest.mark.usefixtures("at_once")
async def test_what_a_continuation_repeats_is_dropped(talk: Talk, model: ScriptedModel) -> None:
    model.play(cut_after("The capital of France is "), answer("capital of ", "France is Paris."))
    assert (await talk.say()).text == "The capital of France is Paris."


@pytest.mark.usefixtures("at_once")
async def test_a_continuation_may_only_write_what_is_left_of_the_most_tokens(talk: Talk, model: ScriptedModel) -> None:
    model.play(cut_after("one two three "), answer("four"))
    await talk.say("Hi", settings=GenerationSettings(params=ModelParams(max_tokens=10)))
    assert [request.params.max_tokens for request in model.requests] == [10, 7]


@pytest.mark.usefixtures("at_once")
async def test_reasoning_that_was_cut_stays_and_is_begun_anew(talk: Talk, model: ScriptedModel) -> None:
    model.play([RequestStarted(None), ReasoningChunk("hm"), CUT], [ReasoningChunk("so"), *answer("Yes")])
    reply = await talk.say()
    assert [(p.kind, p.text) for p in reply.parts] == [
        (PartKind.REASONING, "hm"),
        (PartKind.REASONING, "so"),
        (PartKind.TEXT, "Yes"),
    ]


@pytest.mark.usefixtures("at_once")
async def test_an_answer_is_asked_for_again_at_most_twice(talk: Talk, model: ScriptedModel) -> None:
    model.play(cut_after("one "), cut_after("two "), cut_after("three "), answer("four"))
    reply = await talk.say()
    assert reply.text == "one two three "
    assert reply.reply is not None
    assert (reply.reply.status, reply.reply.requests) == (ReplyStatus.FAILED, 3)


async def test_with_recovery_off_a_cut_answer_fails_at_once(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(cut_after("one "), answer("two"))
    settings = settings_for(tmp_path, recovery=Recovery.KEEP)
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        reply = await Talk(running, model).say()
    assert (reply.text, len(model.requests)) == ("one ", 1)


@pytest.mark.usefixtures("at_once")
async def test_a_failure_keeps_the_text_and_says_why_and_when_to_try_again(talk: Talk, model: ScriptedModel) -> None:
    model.play([RequestStarted(None), TextChunk("Half a"), RATE_LIMITED], [RATE_LIMITED])
    reply = await talk.say()
    assert reply.text == "Half a"
    assert reply.reply is not None
    assert reply.reply.status is ReplyStatus.FAILED
    error = reply.reply.error
    assert error is not None
    assert (error.code, error.retryable, error.retry_after_ms) == (ReplyErrorCode.PROVIDER_RATE_LIMITED, True, 7_000)


async def test_a_bug_is_an_internal_error_without_its_text(talk: Talk, model: ScriptedModel) -> None:
    model.play([RuntimeError("secret")])
    reply = (await talk.say()).reply
    assert reply is not None
    assert reply.error is not None
    assert reply.error.code is ReplyErrorCode.INTERNAL
    assert "secret" not in reply.error.message


async def test_retries_are_events_and_are_counted(talk: Talk, model: ScriptedModel) -> None:
    model.play([RetryChunk(5), RetryChunk(9), *answer("Hi")])
    sent = await talk.send()
    events = [e.event for e in await talk.watch(sent.reply_id, "")]
    reply = (await talk.settled(sent.reply_id)).reply
    assert reply is not None
    assert reply.requests == 3
    assert [e for e in events if isinstance(e, Retrying)] in ([], [Retrying(2, 5), Retrying(3, 9)])


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.CONTENT_FILTER, FinishReason.REFUSAL])
async def test_every_reason_to_finish_is_stored(talk: Talk, model: ScriptedModel, reason: FinishReason) -> None:
    model.play(answer("Hi", reason=reason))
    reply = (await talk.say()).reply
    assert reply is not None
    assert (reply.status, reply.finish_reason) == (ReplyStatus.COMPLETE, reason)


async def test_a_long_reply_is_stored_to_the_last_character(talk: Talk, model: ScriptedModel) -> None:
    pieces = [f"{n:>9} \N{GRINNING FACE}" for n in range(20_000)]
    model.play(answer(*pieces))
    reply = await talk.say()
    assert reply.text == "".join(pieces)


async def test_a_reply_without_any_text_is_complete_and_empty(talk: Talk, model: ScriptedModel) -> None:
    model.play(answer())
    reply = await talk.say()
    assert (reply.text, reply.parts) == ("", ())


async def test_a_hundred_replies_at_once_all_end(talk: Talk) -> None:
    sent = await asyncio.gather(*(talk.send(f"{n}") for n in range(100)))
    texts = await asyncio.gather(*(talk.settled(s.reply_id) for s in sent))
    assert {message.text for message in texts} == {"Hello there."}
