"""Starting again after a crash, and stopping in good order."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from domain.conversations import Message
from domain.errors import ReplyErrorCode
from domain.replies import ReplyStatus
from domain.rescue import LEASE_SECONDS, Rescuer
from domain.streaming import Ended
from persistence.database import Database
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlStorage
from tertulia.services import SystemClock, open_services
from tests.domain.conftest import Talk
from tests.domain.test_replies import status_of, streaming
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, WordCounter, answer
from tests.serving import settings_for


async def after_a_crash(folder: Path, *, shown: str | None) -> Message:
    """A reply whose owner vanished after it had shown some text; what a new server makes of it."""
    model = ScriptedModel(gated(*([shown] if shown else []), asyncio.Event()))
    settings = settings_for(folder)
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, shown)
        copy = folder / "copy.db"
        with closing(sqlite3.connect(folder / "test.db")) as connection:
            connection.execute("VACUUM INTO ?", [str(copy)])
    later = settings.model_copy(update={"database_url": f"sqlite:///{copy}"})
    async with open_services(later, model=ScriptedModel(answer("again")), tokens=WordCounter()) as running:
        return await Talk(running, model).settled(sent.reply_id)


async def test_a_reply_that_had_shown_text_is_interrupted_and_keeps_it(tmp_path: Path) -> None:
    reply = await after_a_crash(tmp_path, shown="Half a")
    assert reply.text == "Half a"
    assert reply.reply is not None
    assert reply.reply.error is not None
    assert reply.reply.error.code is ReplyErrorCode.INTERRUPTED
    assert reply.reply.error.retryable


async def test_a_reply_that_had_shown_nothing_is_asked_for_again(tmp_path: Path) -> None:
    reply = await after_a_crash(tmp_path, shown=None)
    assert reply.text == "again"
    assert reply.reply is not None
    assert (reply.reply.attempt, reply.reply.rescues) == (2, 1)


async def test_a_reply_whose_generator_crashed_is_taken_over(tmp_path: Path) -> None:
    model = ScriptedModel([*answer("Half a")[:-1], RuntimeError("boom")])
    async with open_services(settings_for(tmp_path), model=model, tokens=BrokenCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        reply = await talk.settled(sent.reply_id)
    assert reply.text == "Half a"
    assert reply.reply is not None
    assert reply.reply.error is not None
    assert reply.reply.error.code is ReplyErrorCode.INTERRUPTED


class BrokenCounter(WordCounter):
    """Breaks once a reply is counted: the words of the answer, not of the question."""

    def __init__(self) -> None:
        self.breaks = 3

    def count(self, model: str, text: str) -> int:
        if "Half" in text and self.breaks:
            self.breaks -= 1
            raise RuntimeError("boom")
        return super().count(model, text)


async def test_stopping_the_server_ends_what_is_not_done_as_interrupted(tmp_path: Path) -> None:
    model = ScriptedModel(gated("Half a", asyncio.Event()))
    settings = settings_for(tmp_path)
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a")
    database = Database(settings.database_url)
    async with SqlStorage(database, SystemClock()).read() as work:
        reply = await work.messages.watched(sent.reply_id)
    await database.close()
    assert reply is not None
    assert reply.reply is not None
    assert (reply.text, reply.reply.status) == ("Half a", ReplyStatus.FAILED)


async def test_a_claim_whose_answer_was_lost_is_found_and_made(tmp_path: Path) -> None:
    model = ScriptedModel(answer("Hello"))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        running.worker.draining = True
        sent = await Talk(running, model).send()
        async with running.storage.write() as work:
            await work.replies.claim(running.worker.owner, 1)
            await work.commit()
        running.worker._unsure = True
        running.worker.draining = False
        reply = await Talk(running, model).settled(sent.reply_id)
    assert reply.text == "Hello"


async def test_a_reply_that_was_taken_away_is_let_go_and_its_readers_hear_of_it(tmp_path: Path) -> None:
    model = ScriptedModel(gated("Half a", asyncio.Event()))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a")
        reading = asyncio.create_task(talk.watch(sent.reply_id))
        async with running.storage.write() as work:
            await work.workers.disown(sent.reply_id, 1)
            await work.commit()
        events = await reading
        await model.closed.wait()
    assert isinstance(events[-1].event, Ended)
    assert events[-1].event.message.text == "Half a"


async def test_after_an_outage_nobody_is_taken_over_for_a_lease(tmp_path: Path) -> None:
    model = ScriptedModel(gated("Half a", asyncio.Event()))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a")
        other = Rescuer(running.storage, LocalNotifier(), WordCounter(), "work_other")
        await other.beat()
        async with running.storage.write() as work:
            await work.workers.forget_all()
            await work.commit()
        assert other._last_beat is not None
        other._last_beat -= LEASE_SECONDS
        await other.rescue()
        assert (await talk.message(sent.reply_id)).text == "Half a"
        assert status_of(await talk.message(sent.reply_id)) is ReplyStatus.STREAMING


async def test_a_stopped_orphan_is_stopped_and_not_interrupted(tmp_path: Path) -> None:
    model = ScriptedModel(gated("Half a", asyncio.Event()))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a")
        async with running.storage.write() as work:
            await work.replies.request_stop(sent.reply_id)
            await work.workers.disown(sent.reply_id, 1)
            await work.commit()
        reply = await talk.settled(sent.reply_id)
    assert status_of(reply) is ReplyStatus.STOPPED
