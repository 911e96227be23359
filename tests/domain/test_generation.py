"""The making of a reply: what is stored, whichever way it ends."""

import asyncio

import pytest

from domain.conversations import PartKind
from domain.errors import ProviderError, ReplyErrorCode
from domain.events import Retrying
from domain.models import FinishChunk, ReasoningChunk, RequestStarted, RetryChunk, TextChunk
from domain.replies import FinishReason, ReplyStatus, Usage
from tests.domain.conftest import Talk
from tests.doubles import ScriptedModel, answer

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


async def test_a_failure_keeps_the_text_and_says_why_and_when_to_try_again(talk: Talk, model: ScriptedModel) -> None:
    model.play([RequestStarted(None), TextChunk("Half a"), RATE_LIMITED])
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
