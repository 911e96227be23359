"""Replies that are stored as claimed: which, and what becomes of them when something goes wrong. On both databases."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain import worker
from domain.errors import StorageError
from domain.events import StatusChanged
from domain.inputs import EditMessage, RegenerateReply, SendMessage
from domain.replies import Held, ReplyStatus
from domain.reply_service import Sent
from domain.storage import WHOLE_LOG
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlUnitOfWork
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, WordCounter, answer
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings_for


@pytest.fixture
async def talk(url: str, tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Talk]:
    settings = settings_for(tmp_path, database_url=url)
    async with open_services(settings, model=model, tokens=WordCounter(), notifier=LocalNotifier()) as running:
        talk = Talk(running, model)
        await talk.say("the queue was looked at when this is answered")
        running.worker.places.crowded = False
        yield talk


def status(sent: Sent) -> ReplyStatus:
    assert sent.stored is not None
    assert sent.stored.answer.reply is not None
    return sent.stored.answer.reply.status


async def test_the_reply_to_a_message_streams_as_it_is_stored(talk: Talk, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    sent = await talk.send()
    async with talk.running.storage.read() as work:
        held = await work.replies.held(talk.running.worker.owner)
        first = (await work.log.after(sent.reply_id, 0, WHOLE_LOG))[0]
    assert held == [Held(sent.reply_id, 1, False)]
    assert (first.seq, first.attempt, first.event) == (1, 1, StatusChanged(ReplyStatus.STREAMING))


async def test_what_is_answered_is_what_is_stored(talk: Talk, model: ScriptedModel) -> None:
    model.play([asyncio.Event()])
    sent = await talk.send()
    assert sent.stored is not None
    assert await talk.message(sent.reply_id) == sent.stored.answer


async def test_so_do_further_messages_other_versions_and_repeated_replies(talk: Talk, model: ScriptedModel) -> None:
    first = await talk.say("First")
    services = talk.running.services.replies
    further = await talk.send("Second", conversation_id=first.conversation_id)
    await talk.settled(further.reply_id)
    assert further.message_id is not None
    edited = await services.edit_message(ME, EditMessage(further.message_id, "Other"))
    await talk.settled(edited.reply_id)
    again = await services.regenerate_reply(ME, RegenerateReply(further.reply_id))
    assert [status(sent) for sent in (further, edited, again)] == [ReplyStatus.STREAMING] * 3
    assert (await talk.settled(again.reply_id)).text == "Hello there."


async def test_a_reply_behind_another_is_queued_and_made_after_it(talk: Talk, model: ScriptedModel) -> None:
    whole = asyncio.Event()
    model.play(gated("one", whole), answer("two"))
    first = await talk.send("First")
    second = await talk.send("Second", conversation_id=first.conversation_id)
    assert [status(first), status(second)] == [ReplyStatus.STREAMING, ReplyStatus.QUEUED]
    whole.set()
    assert (await talk.settled(second.reply_id)).text == "two"


async def test_where_all_places_are_taken_replies_are_queued(tmp_path: Path, model: ScriptedModel) -> None:
    whole = asyncio.Event()
    model.play(gated("one", whole), answer("two"))
    settings = settings_for(tmp_path, max_live_replies=1)
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        async with running.worker._claiming:  # a look at the queue holds what is free
            running.worker.places.crowded = False
            sent = [await talk.send(f"Message {n}") for n in range(2)]
        assert [status(each) for each in sent] == [ReplyStatus.STREAMING, ReplyStatus.QUEUED]
        whole.set()
        assert (await talk.settled(sent[1].reply_id)).text == "two"


async def test_a_repeated_key_begins_nothing(talk: Talk, model: ScriptedModel) -> None:
    sent = await talk.send(idempotency_key="key")
    await talk.settled(sent.reply_id)
    asked = len(model.requests)
    assert (await talk.send(idempotency_key="key")).replayed
    async with talk.running.storage.read() as work:
        assert await work.replies.held(talk.running.worker.owner) == []
    assert len(model.requests) == asked


async def test_a_reply_whose_commit_got_no_answer_is_made_once_all_the_same(
    talk: Talk, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender hears of an error, and may ask again with the same key."""
    commit, sender = SqlUnitOfWork.commit, asyncio.current_task()

    async def lost(work: SqlUnitOfWork) -> None:
        await commit(work)
        if asyncio.current_task() is sender:
            monkeypatch.setattr(SqlUnitOfWork, "commit", commit)
            raise StorageError

    monkeypatch.setattr(SqlUnitOfWork, "commit", lost)
    asked = len(model.requests)
    with pytest.raises(StorageError):
        await talk.send(idempotency_key="key")
    again = await talk.send(idempotency_key="key")
    assert again.replayed
    message = await talk.settled(again.reply_id)
    assert message.reply is not None
    assert (message.text, message.reply.attempt, message.reply.rescues) == ("Hello there.", 1, 0)
    assert len(model.requests) == asked + 1


async def test_a_server_that_stops_waits_for_a_reply_that_is_being_stored_and_takes_no_more(
    tmp_path: Path, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FAREWELL_SECONDS", PATIENCE_SECONDS)
    model.play([asyncio.Event()])
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        running.worker.places.crowded = False
        with running.worker.places.hold() as place:
            assert place is not None
            draining = asyncio.create_task(running.worker.drain(0))
            sending = asyncio.create_task(running.services.replies.send_message(ME, SendMessage("Hi")))
            assert status(await sending) is ReplyStatus.QUEUED
            assert not draining.done()
        await draining
    assert not model.requests
