"""Sending while a reply above is still being made: waiting in line, being refused, stopping it. On both databases."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.conversations import PageRequest
from domain.errors import IdempotencyMismatch, ReplyInProgress
from domain.inputs import OnBusy
from domain.replies import ReplyStatus
from domain.reply_service import Sent
from domain.topics import STOP, reply_topic
from persistence.notifier import LocalNotifier
from tertulia.services import TimeOrderedIds, open_services
from tests.domain.conftest import ME, Talk
from tests.domain.test_replies import status_of, streaming
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, WordCounter, answer, heard
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings_for


class Ids(TimeOrderedIds):
    """Fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False

    def new(self, prefix: str) -> str:
        if self.fails:
            raise RuntimeError("no more ids")
        return super().new(prefix)


@pytest.fixture
def ids() -> Ids:
    return Ids()


@pytest.fixture
def notifier() -> LocalNotifier:
    return LocalNotifier()


@pytest.fixture
async def talk(
    url: str, tmp_path: Path, model: ScriptedModel, ids: Ids, notifier: LocalNotifier
) -> AsyncIterator[Talk]:
    settings = settings_for(tmp_path, database_url=url)
    async with open_services(settings, model=model, tokens=WordCounter(), ids=ids, notifier=notifier) as running:
        yield Talk(running, model)


@pytest.fixture
async def first(talk: Talk, model: ScriptedModel) -> Sent:
    """A message whose reply has shown "one" and does not end by itself; every other is answered at once."""
    model.play(gated("one", asyncio.Event()), answer("two"))
    sent = await talk.send("First")
    await streaming(talk, sent.reply_id, "one")
    return sent


async def said(talk: Talk, conversation_id: str) -> list[str]:
    page = await talk.running.services.conversations.path(ME, conversation_id, None, PageRequest(last=100))
    return [message.text for message in page.items]


async def refused(talk: Talk, **fields: str) -> str:
    """The reply because of which the message is refused."""
    with pytest.raises(ReplyInProgress) as caught:
        await talk.send("Second", on_busy=OnBusy.REJECT, **fields)
    assert caught.value.path == ("onBusy",)
    return caught.value.reply_id


# ── refused ──


async def test_a_message_behind_a_running_reply_is_refused_and_not_stored(talk: Talk, first: Sent) -> None:
    assert await refused(talk, conversation_id=first.conversation_id) == first.reply_id
    assert await said(talk, first.conversation_id) == ["First", "one"]
    assert status_of(await talk.message(first.reply_id)) is ReplyStatus.STREAMING


async def test_a_queued_reply_is_in_progress_too(talk: Talk, first: Sent) -> None:
    queued = await talk.send("Queued", conversation_id=first.conversation_id)
    assert status_of(await talk.message(queued.reply_id)) is ReplyStatus.QUEUED
    assert await refused(talk, conversation_id=first.conversation_id) == queued.reply_id


@pytest.mark.parametrize("on_busy", OnBusy)
async def test_behind_settled_replies_every_message_goes_through(talk: Talk, on_busy: OnBusy) -> None:
    reply = await talk.say("First", on_busy=on_busy)
    assert (await talk.say("Second", conversation_id=reply.conversation_id, on_busy=on_busy)).text == "Hello there."


@pytest.mark.parametrize("on_busy", [OnBusy.REJECT, OnBusy.INTERRUPT])
async def test_a_running_reply_on_another_branch_is_in_nobodys_way(
    talk: Talk, model: ScriptedModel, on_busy: OnBusy
) -> None:
    model.play(answer("zero"), gated("one", asyncio.Event()), answer("two"))
    root = await talk.say("Root")
    running = await talk.send("First", conversation_id=root.conversation_id)
    await streaming(talk, running.reply_id, "one")
    beside = await talk.say("Beside", conversation_id=root.conversation_id, parent_id=root.id, on_busy=on_busy)
    assert beside.text == "two"
    assert status_of(await talk.message(running.reply_id)) is ReplyStatus.STREAMING


async def test_of_many_messages_at_once_that_will_not_wait_one_gets_through(talk: Talk, model: ScriptedModel) -> None:
    root = await talk.say("Root")
    model.play(gated("one", asyncio.Event()))
    sends = (talk.send(f"Message {n}", conversation_id=root.conversation_id, on_busy=OnBusy.REJECT) for n in range(10))
    results = await asyncio.gather(*sends, return_exceptions=True)
    (through,) = [result for result in results if isinstance(result, Sent)]
    reasons = [result.reply_id for result in results if isinstance(result, ReplyInProgress)]
    assert reasons == [through.reply_id] * 9
    assert len(await said(talk, root.conversation_id)) == 4


# ── interrupting ──


async def test_a_message_that_interrupts_stops_the_running_reply_and_is_answered_with_its_text_known(
    talk: Talk, model: ScriptedModel, first: Sent
) -> None:
    second = await talk.say("Second", conversation_id=first.conversation_id, on_busy=OnBusy.INTERRUPT)
    assert second.text == "two"
    stopped = await talk.message(first.reply_id)
    assert (status_of(stopped), stopped.text) == (ReplyStatus.STOPPED, "one")
    assert model.closed.is_set()
    assert [m.texts for m in heard(model.requests[-1].messages)][1:] == [("First",), ("one",), ("Second",)]


async def test_a_message_that_interrupts_stops_those_that_wait_in_line_too(
    talk: Talk, model: ScriptedModel, first: Sent
) -> None:
    waiting = [await talk.send(f"Waiting {n}", conversation_id=first.conversation_id) for n in range(2)]
    await talk.say("Second", conversation_id=first.conversation_id, on_busy=OnBusy.INTERRUPT)
    for sent in [first, *waiting]:
        assert status_of(await talk.message(sent.reply_id)) is ReplyStatus.STOPPED
    assert len(model.requests) == 2


async def test_the_owner_and_the_readers_of_what_is_interrupted_are_told(
    talk: Talk, first: Sent, notifier: LocalNotifier
) -> None:
    async with notifier.listen(STOP) as owner, notifier.listen(reply_topic(first.reply_id)) as reader:
        await talk.send("Second", conversation_id=first.conversation_id, on_busy=OnBusy.INTERRUPT)
        assert await owner.wait(PATIENCE_SECONDS)
        assert await reader.wait(PATIENCE_SECONDS)


async def test_a_message_that_cannot_be_stored_interrupts_nothing(talk: Talk, first: Sent, ids: Ids) -> None:
    ids.fails = True
    with pytest.raises(RuntimeError):
        await talk.send("Second", conversation_id=first.conversation_id, on_busy=OnBusy.INTERRUPT)
    reply = (await talk.message(first.reply_id)).reply
    assert reply is not None
    assert (reply.status, reply.stop_requested) == (ReplyStatus.STREAMING, False)


async def test_many_that_interrupt_each_other_at_once_are_all_stored_and_the_last_is_answered(
    talk: Talk, first: Sent
) -> None:
    sends = (
        talk.send(f"Message {n}", conversation_id=first.conversation_id, on_busy=OnBusy.INTERRUPT) for n in range(10)
    )
    sent = await asyncio.gather(*sends)
    ends = {status_of(await talk.settled(each.reply_id)) for each in sent}
    assert ends <= {ReplyStatus.COMPLETE, ReplyStatus.STOPPED}
    texts = await said(talk, first.conversation_id)
    assert (len(texts), texts[-1]) == (22, "two")


# ── the same key again ──


@pytest.mark.parametrize("on_busy", [OnBusy.REJECT, OnBusy.INTERRUPT])
async def test_a_repeated_key_answers_with_the_first_result_while_that_is_still_being_made(
    talk: Talk, model: ScriptedModel, on_busy: OnBusy
) -> None:
    root = await talk.say("Root")
    model.play(gated("one", asyncio.Event()))
    fields = {"conversation_id": root.conversation_id, "on_busy": on_busy, "idempotency_key": "k"}
    sent = await talk.send("First", **fields)
    await streaming(talk, sent.reply_id, "one")
    again = await talk.send("First", **fields)
    assert (again.reply_id, again.replayed) == (sent.reply_id, True)
    assert status_of(await talk.message(sent.reply_id)) is ReplyStatus.STREAMING


async def test_the_key_of_a_refused_message_can_be_used_again(talk: Talk, first: Sent) -> None:
    await refused(talk, conversation_id=first.conversation_id, idempotency_key="k")
    again = {"conversation_id": first.conversation_id, "idempotency_key": "k"}
    assert not (await talk.send("Second", on_busy=OnBusy.INTERRUPT, **again)).replayed
    with pytest.raises(IdempotencyMismatch):
        await talk.send("Second", on_busy=OnBusy.QUEUE, **again)
