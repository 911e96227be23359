"""Limits of users with accounts: sends a minute, live replies, and what is told of them."""

import asyncio
from pathlib import Path

import pytest

from domain.errors import QuotaExceeded, QuotaName, RateLimited
from domain.inputs import ContinueReply, CreateConversation, EditMessage, RegenerateReply, SendMessage
from domain.replies import FinishReason, Usage
from domain.reply_service import Sent
from tests.domain.budgeting import ANN, NEED, serving_ann
from tests.domain.conftest import ME
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, answer
from tests.patience import PATIENCE_SECONDS

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


async def test_a_new_conversation_counts_as_a_message(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving_ann(tmp_path, model, sends_per_minute=2) as ann:
        await ann.send()
        conversations = ann.running.services.conversations
        await conversations.create(ANN, CreateConversation(idempotency_key="once"))
        await conversations.create(ANN, CreateConversation(idempotency_key="once"))
        with pytest.raises(RateLimited):
            await conversations.create(ANN, CreateConversation())


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
            await ann.running.services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
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


# ── what is told ──


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
