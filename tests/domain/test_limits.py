"""Limits of users with accounts: what is counted, reserved, refused and settled, whichever way a reply ends."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import insert

from domain import generation
from domain.account_storage import Use
from domain.conversations import GenerationSettings, Message, ModelParams, Role, SeedMessage
from domain.errors import ProviderError, QuotaExceeded, QuotaName, RateLimited, ReplyErrorCode
from domain.inputs import ContinueReply, EditMessage, RegenerateReply, SendMessage
from domain.limits import LEAST_COUNTED, OVERRUN
from domain.models import FinishChunk, ReasoningChunk, RequestStarted, TextChunk
from domain.prompting import PRIMING
from domain.replies import FinishReason, ReplyStatus, Usage
from domain.reply_service import Sent
from persistence.tables import users
from tertulia.services import Running, open_services
from tests.domain.conftest import ME
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, Step, WordCounter, answer
from tests.serving import settings_for

ANN = "user_ann"
SYSTEM, QUESTION, OVERHEADS, ANSWER = 9, 1, 8, 50
NEED = SYSTEM + QUESTION + OVERHEADS + PRIMING + ANSWER
"""Of "Hi", alone in its conversation."""
NOTHING = {"sends_per_minute": 0, "max_live_replies_per_user": 0, "tokens_per_day": 0, "tokens_per_month": 0}


class Waiting(asyncio.Event):
    """An event of a script that tells when the script has come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.reached.set()
        return await super().wait()


class Ann:
    """A user with an account, and a server without any other limit than the given ones."""

    def __init__(self, running: Running, model: ScriptedModel) -> None:
        self.running = running
        self.model = model
        self.replies = running.services.replies

    async def send(self, text: str = "Hi", **fields: Any) -> Sent:
        return await self.replies.send_message(ANN, SendMessage(text, **fields))

    async def settled(self, reply_id: str) -> Message:
        await self.running.services.stream.settled(reply_id, 10)
        return await self.running.services.conversations.message(ANN, reply_id)

    async def say(self, text: str = "Hi", **fields: Any) -> Message:
        return await self.settled((await self.send(text, **fields)).reply_id)

    async def shows(self, reply_id: str, text: str) -> None:
        """Return when the reply shows the text."""
        stream = await self.running.services.stream.follow(ANN, reply_id, None)
        async for _ in stream:
            if (await self.running.services.conversations.message(ANN, reply_id)).text == text:
                break
        await stream.aclose()

    async def use(self) -> Use:
        async with self.running.storage.read() as work:
            return await work.budgets.use(ANN)

    async def used(self) -> int:
        """Tokens that are spent; nothing is reserved."""
        use = await self.use()
        assert (use.live, use.reserved) == (0, 0)
        return use.tokens_today

    async def messages(self) -> int:
        return await self.running.services.conversations.count(ANN)


@asynccontextmanager
async def serving_ann(folder: Path, model: ScriptedModel, **limits: int) -> AsyncIterator[Ann]:
    settings = settings_for(folder, **(NOTHING | {"max_tokens": ANSWER} | limits))
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        async with running.database.connect(writing=True) as connection:
            now = running.services.conversations._clock.now()
            await connection.execute(insert(users).values(id=ANN, created_at=now))
            await connection.commit()
        yield Ann(running, model)


# ── sends ──


async def test_so_many_messages_may_be_sent_in_a_minute(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving_ann(tmp_path, model, sends_per_minute=3) as ann:
        for _ in range(3):
            await ann.send()
        with pytest.raises(RateLimited) as refused:
            await ann.send()
        assert 0 < refused.value.retry_after <= 60
        assert await ann.messages() == 3


async def test_of_messages_sent_at_once_no_more_than_the_limit_are_taken(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving_ann(tmp_path, model, sends_per_minute=5) as ann:
        ended = await asyncio.gather(*(ann.send() for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(end, Sent) for end in ended) == 5
        assert sum(isinstance(end, RateLimited) for end in ended) == 15
        assert await ann.messages() == 5


async def test_every_command_that_queues_a_reply_is_counted(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving_ann(tmp_path, model, sends_per_minute=4) as ann:
        model.play(answer("Half", reason=FinishReason.LENGTH))
        sent = await ann.send()
        await ann.settled(sent.reply_id)
        await ann.replies.edit_message(ANN, EditMessage(sent.message_id or "", "Hello"))
        await ann.replies.regenerate_reply(ANN, RegenerateReply(sent.reply_id))
        await ann.replies.continue_reply(ANN, ContinueReply(sent.reply_id))
        for again in (
            ann.replies.edit_message(ANN, EditMessage(sent.message_id or "", "Hello")),
            ann.replies.regenerate_reply(ANN, RegenerateReply(sent.reply_id)),
            ann.replies.continue_reply(ANN, ContinueReply(sent.reply_id)),
        ):
            with pytest.raises(RateLimited):
                await again


async def test_a_message_repeated_with_its_key_is_counted_once_and_answered_over_the_limit(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with serving_ann(tmp_path, model, sends_per_minute=1) as ann:
        first = await ann.send(idempotency_key="once")
        again = await ann.send(idempotency_key="once")
        assert (again.reply_id, again.replayed) == (first.reply_id, True)


async def test_without_accounts_nobody_is_limited(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving_ann(tmp_path, model, sends_per_minute=1, max_live_replies_per_user=1, tokens_per_day=1) as ann:
        for _ in range(3):
            sent = await ann.replies.send_message(ME, SendMessage("Hi"))
            await ann.running.services.stream.settled(sent.reply_id, 10)
        assert len(model.requests) == 3
        async with ann.running.storage.read() as work:
            assert (await work.budgets.use(ME)).tokens_today == 0


# ── live replies ──


async def test_so_many_replies_may_be_made_at_once(tmp_path: Path, model: ScriptedModel) -> None:
    gate = asyncio.Event()
    model.play(gated("one", gate))
    async with serving_ann(tmp_path, model, max_live_replies_per_user=2) as ann:
        first, _ = await ann.send(), await ann.send()
        with pytest.raises(QuotaExceeded) as refused:
            await ann.send()
        quota = refused.value.quota
        assert (quota.name, quota.limit, quota.used, quota.resets_at) == (QuotaName.LIVE_REPLIES, 2, 2, None)
        gate.set()
        await ann.settled(first.reply_id)
        await ann.send()


async def test_a_reply_that_is_being_stopped_makes_room(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()), answer("two"))
    async with serving_ann(tmp_path, model, max_live_replies_per_user=1) as ann:
        sent = await ann.send()
        await ann.shows(sent.reply_id, "one")
        await ann.replies.stop_reply(ANN, sent.reply_id)
        assert (await ann.say("Hello")).text == "two"


# ── tokens ──


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
        ann.running.worker.draining = True
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
        await ann.running.services.stream.settled(sent.reply_id, 10)
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


async def test_quotas_tell_what_is_used_and_reserved(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(answer("Hi", usage=Usage(30, 5)), gated("one", asyncio.Event()))
    limits = {"sends_per_minute": 9, "max_live_replies_per_user": 2, "tokens_per_day": 500, "tokens_per_month": 900}
    async with serving_ann(tmp_path, model, **limits) as ann:
        await ann.say()
        await ann.send()
        quotas = await ann.running.services.allowances.quotas(ANN)
        assert [(q.name.value, q.limit, q.used) for q in quotas] == [
            ("SENDS_PER_MINUTE", 9, 2),
            ("LIVE_REPLIES", 2, 1),
            ("TOKENS_PER_DAY", 500, 35 + NEED),
            ("TOKENS_PER_MONTH", 900, 35 + NEED),
        ]
        assert [quota.resets_at is None for quota in quotas] == [False, True, False, False]
        assert await ann.running.services.allowances.quotas(ME) == []


async def test_a_history_that_came_with_the_message_is_reserved(tmp_path: Path, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    async with serving_ann(tmp_path, model, tokens_per_day=1_000) as ann:
        await ann.send(history=(SeedMessage(Role.USER, ("one two three",)),))
        assert (await ann.use()).reserved == NEED + 3 + 4
