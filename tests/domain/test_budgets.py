"""Budgets of users with accounts: what is reserved, refused and settled, whichever way a reply ends."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from domain import generation
from domain.account_storage import Use
from domain.conversations import GenerationSettings, ModelParams, Role, SeedMessage
from domain.errors import ProviderError, QuotaExceeded, ReplyErrorCode
from domain.limits import LEAST_COUNTED, OVERRUN
from domain.models import FinishChunk, ReasoningChunk, RequestStarted, TextChunk
from domain.replies import FinishReason, ReplyStatus, Usage
from tertulia.services import open_services
from tests.domain.budgeting import ANN, ANSWER, NEED, NOTHING, OVERHEADS, QUESTION, SYSTEM, Ann, Waiting, serving_ann
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, Step, WordCounter, answer
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings_for


async def test_a_queued_reply_reserves_all_that_it_may_spend(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        await ann.send()
        use = await ann.use()
        assert (use.live, use.reserved, use.tokens_today) == (1, NEED, 0)


async def test_a_history_is_reserved_with_its_message(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(answer("one two", usage=Usage(0, 0)), gated("three", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        first = await ann.send()
        await ann.settled(first.reply_id)
        second = await ann.send("four words are here", conversation_id=first.conversation_id)
        assert (await ann.use()).reserved == NEED + (2 + 4) + (4 + 4)
        await ann.shows(second.reply_id, "three")
        assert (await ann.use()).reserved == NEED + (2 + 4) + (4 + 4)


@pytest.mark.parametrize("name", ["day", "month"])
async def test_what_does_not_fit_the_budget_is_refused_until_there_is_more(
    tmp_path: Path, model: ScriptedModel, name: str
) -> None:
    model.play(gated("one", asyncio.Event()))
    async with serving_ann(tmp_path, model, **{f"tokens_per_{name}": 2 * NEED + 1}) as ann:
        await ann.send()
        await ann.send()
        with pytest.raises(QuotaExceeded) as refused:
            await ann.send()
        quota = refused.value.quota
        assert (quota.name, quota.limit, quota.used) == (f"TOKENS_PER_{name.upper()}", 2 * NEED + 1, 2 * NEED)
        today = (await ann.use()).today
        assert quota.resets_at is not None
        assert (quota.resets_at.date() - today).days == 1 if name == "day" else quota.resets_at.day == 1
        assert quota.resets_at.date() > today
        assert await ann.messages() == 2


async def test_what_never_fits_the_budget_is_refused_without_a_time_to_come_back(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with serving_ann(tmp_path, model, tokens_per_day=NEED - 1) as ann:
        with pytest.raises(QuotaExceeded, match="maxTokens") as refused:
            await ann.send()
        assert refused.value.quota.resets_at is None
        await ann.say(settings=GenerationSettings(params=ModelParams(max_tokens=ANSWER - 1)))


async def test_the_providers_word_on_usage_is_what_was_spent(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(answer("Hi", usage=Usage(30, 5)))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        await ann.say()
        await ann.say()
        assert await ann.used() == 70


async def test_a_reply_that_was_stopped_spends_what_was_asked_and_written(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(gated("one two", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        sent = await ann.send()
        await ann.shows(sent.reply_id, "one two")
        await ann.replies.stop_reply(ANN, sent.reply_id)
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS + 2


async def test_a_reply_that_was_stopped_while_it_was_asked_for_spends_its_prompt(
    tmp_path: Path, model: ScriptedModel
) -> None:
    unanswered = Waiting()
    model.play([unanswered, *answer("never")])
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        sent = await ann.send()
        await unanswered.reached.wait()
        await ann.replies.stop_reply(ANN, sent.reply_id)
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS


async def test_a_reply_that_was_stopped_in_the_queue_spends_nothing(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        ann.running.worker.places.closed = True
        sent = await ann.send()
        assert (await ann.use()).reserved == NEED
        await ann.replies.stop_reply(ANN, sent.reply_id)
        assert await ann.used() == 0


async def test_reasoning_that_broke_off_is_spent(tmp_path: Path, model: ScriptedModel) -> None:
    broke = ProviderError(ReplyErrorCode.PROVIDER_REJECTED, "No.", retryable=False)
    model.play([RequestStarted(None), ReasoningChunk("hm hm hm"), broke])
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        await ann.say()
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS + 3


async def test_a_request_that_was_refused_spends_nothing(tmp_path: Path, model: ScriptedModel) -> None:
    model.play([ProviderError(ReplyErrorCode.PROVIDER_REJECTED, "No.", retryable=False)])
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        await ann.say()
        assert await ann.used() == 0


async def test_deleting_a_conversation_settles_what_its_replies_had_reserved(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.play(gated("one two", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        sent = await ann.send()
        await ann.shows(sent.reply_id, "one two")
        await ann.running.services.conversations.delete(ANN, sent.conversation_id)
        await ann.running.services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS + 2


CUT = ProviderError(ReplyErrorCode.PROVIDER_UNAVAILABLE, "It broke off.", retryable=True)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "CUT_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_an_answer_that_was_cut_goes_on_only_as_far_as_the_budget(tmp_path: Path, model: ScriptedModel) -> None:
    model.play([RequestStarted(None), TextChunk("one two "), CUT], answer("three"))
    async with serving_ann(tmp_path, model, tokens_per_day=NEED + 10) as ann:
        reply = await ann.say()
        assert (reply.text, len(model.requests)) == ("one two ", 1)
        assert reply.reply is not None
        assert reply.reply.status is ReplyStatus.FAILED
        error = reply.reply.error
        assert error is not None
        assert error.code is ReplyErrorCode.QUOTA_EXCEEDED
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS + 2


@pytest.mark.usefixtures("at_once")
async def test_an_answer_that_was_cut_spends_what_all_its_requests_cost(tmp_path: Path, model: ScriptedModel) -> None:
    model.play([RequestStarted(None), TextChunk("one two "), CUT], answer("three"))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        assert (await ann.say()).text == "one two three"
        once = SYSTEM + QUESTION + OVERHEADS
        assert await ann.used() == once + 2 + (once + 2) + 1


async def test_a_reply_whose_history_grew_beyond_the_budget_while_it_waited_fails_as_data(
    tmp_path: Path, model: ScriptedModel
) -> None:
    gate = asyncio.Event()
    model.play([RequestStarted(None), gate, TextChunk("word " * 40), FinishChunk(FinishReason.STOP, None, None, None)])
    async with serving_ann(tmp_path, model, tokens_per_day=2 * NEED + 20) as ann:
        first = await ann.send()
        second = await ann.send("Hi", conversation_id=first.conversation_id)
        gate.set()
        await ann.settled(first.reply_id)
        reply = (await ann.settled(second.reply_id)).reply
        assert reply is not None
        assert (reply.status, len(model.requests)) == (ReplyStatus.FAILED, 1)
        assert reply.error is not None
        assert (reply.error.code, reply.error.retryable) == (ReplyErrorCode.QUOTA_EXCEEDED, True)
        assert reply.error.retry_after_ms is not None
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS + 40


async def test_an_endpoint_that_goes_on_far_beyond_max_tokens_is_cut_off(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(answer(*["word "] * 5_000))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        reply = await ann.say()
        assert reply.reply is not None
        assert (reply.reply.status, reply.reply.finish_reason) == (ReplyStatus.COMPLETE, FinishReason.LENGTH)
        assert OVERRUN * ANSWER < reply.token_count < OVERRUN * ANSWER + LEAST_COUNTED / len("word ") + 1
        assert await ann.used() == SYSTEM + QUESTION + OVERHEADS + reply.token_count
    await model.closed.wait()


async def test_an_answer_as_long_as_was_asked_for_is_whole(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(answer(*["word "] * ANSWER))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        reply = await ann.say()
        assert (reply.token_count, reply.reply and reply.reply.finish_reason) == (ANSWER, FinishReason.STOP)


async def crashed(folder: Path, *shown: Step) -> Use:
    """What is used of a budget when a reply of Ann's has lost its process and a new one has finished it."""
    unanswered = Waiting()
    model = ScriptedModel([*shown, unanswered])
    async with serving_ann(folder, model, tokens_per_day=1_000) as ann:
        sent = await ann.send()
        await unanswered.reached.wait()
        if any(isinstance(step, TextChunk) for step in shown):
            await ann.shows(sent.reply_id, "one two ")
        copy = folder / "copy.db"
        with closing(sqlite3.connect(folder / "test.db")) as connection:
            connection.execute("VACUUM INTO ?", [str(copy)])
    limits = NOTHING | {"max_tokens": ANSWER, "tokens_per_day": 1_000}
    settings = settings_for(folder, database_url=f"sqlite:///{copy}", **limits)
    async with open_services(settings, model=ScriptedModel(answer("three")), tokens=WordCounter()) as running:
        ann = Ann(running, model)
        await ann.settled(sent.reply_id)
        return await ann.use()


async def test_what_a_process_had_spent_before_it_crashed_is_spent(tmp_path: Path) -> None:
    use = await crashed(tmp_path, RequestStarted(None), TextChunk("one two "))
    once = SYSTEM + QUESTION + OVERHEADS
    assert (use.live, use.reserved, use.tokens_today) == (0, 0, once + 2 + (once + 2) + 1)


async def test_a_process_that_crashed_before_it_showed_anything_has_spent_its_prompt(tmp_path: Path) -> None:
    use = await crashed(tmp_path)
    once = SYSTEM + QUESTION + OVERHEADS
    assert (use.live, use.reserved, use.tokens_today) == (0, 0, once + once + 1)


async def test_a_hand_over_spends_its_part_and_keeps_the_rest_reserved(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(gated("one two ", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        sent = await ann.send()
        await ann.shows(sent.reply_id, "one two ")
        await ann.running.worker.drain(0)
        use, spent = await ann.use(), SYSTEM + QUESTION + OVERHEADS + 2
        assert (use.live, use.tokens_today, use.reserved) == (1, spent, NEED - spent)


async def test_a_history_that_came_with_the_message_is_reserved(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        await ann.send(history=(SeedMessage(Role.USER, ("one two three",)),))
        assert (await ann.use()).reserved == NEED + 3 + 4
