"""Starting again after a crash, and stopping in good order."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from domain.conversations import Message
from domain.errors import ReplyErrorCode
from domain.prompting import Prompter
from domain.replies import Owner, Recovery, ReplyStatus
from domain.rescue import LEASE_SECONDS, Rescuer
from domain.streaming import Ended
from persistence.database import Database
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlStorage
from tertulia.services import SystemClock, TimeOrderedIds, open_services
from tertulia.settings import Settings
from tests.domain.conftest import ME, Talk
from tests.domain.test_replies import status_of, streaming
from tests.domain.test_streaming import gated
from tests.doubles import RecordingTelemetry, ScriptedModel, WordCounter, answer
from tests.serving import settings_for


async def after_a_crash(folder: Path, *, shown: str | None, recovery: Recovery = Recovery.CONTINUE) -> Message:
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
    later = settings.model_copy(update={"database_url": f"sqlite:///{copy}", "recovery": recovery})
    async with open_services(later, model=ScriptedModel(answer("again")), tokens=WordCounter()) as running:
        return await Talk(running, model).settled(sent.reply_id)


async def test_a_reply_that_had_shown_text_goes_on_from_it(tmp_path: Path) -> None:
    reply = await after_a_crash(tmp_path, shown="Half a ")
    assert reply.text == "Half a again"
    assert reply.reply is not None
    assert (reply.reply.status, reply.reply.attempt, reply.reply.rescues) == (ReplyStatus.COMPLETE, 2, 1)
    assert [part.text for part in reply.parts] == ["Half a again"]


async def test_the_usage_of_the_attempt_that_crashed_is_counted_with_the_next(tmp_path: Path) -> None:
    reply = (await after_a_crash(tmp_path, shown="Half a ")).reply
    assert reply is not None
    assert reply.usage is not None
    system, question, overhead, shown = 9, 1, 8, 2
    once = system + question + overhead
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (once + once + shown, shown + 1)
    assert reply.usage.estimated
    assert reply.requests == 2


async def test_a_setting_lets_a_reply_that_had_shown_text_fail_and_keep_it(tmp_path: Path) -> None:
    reply = await after_a_crash(tmp_path, shown="Half a", recovery=Recovery.KEEP)
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
    shown = asyncio.Event()
    model = ScriptedModel([*answer("Half a")[:-1], shown, RuntimeError("boom")], answer(" and whole"))
    async with open_services(settings_for(tmp_path), model=model, tokens=BrokenCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a")
        shown.set()
        reply = await talk.settled(sent.reply_id)
    assert reply.text == "Half a and whole"


class BrokenCounter(WordCounter):
    """Breaks once a reply is counted: the words of the answer, not of the question."""

    def __init__(self) -> None:
        self.breaks = 3

    def count(self, model: str, text: str) -> int:
        if "Half" in text and self.breaks:
            self.breaks -= 1
            raise RuntimeError("boom")
        return super().count(model, text)


async def stored(settings: Settings, reply_id: str) -> Message:
    database = Database(settings.database_url)
    async with SqlStorage(database, SystemClock()).read() as work:
        message = (await work.messages.watched([reply_id]))[reply_id]
    await database.close()
    return message


async def stopped_in_mid_reply(settings: Settings, shown: str | None = "Half a ") -> str:
    """A server that was stopped in good order while it made a reply; the reply's id."""
    model = ScriptedModel(gated(*([shown] if shown else []), asyncio.Event()))
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, shown)
    return sent.reply_id


async def test_stopping_the_server_hands_over_what_is_not_done(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    message = await stored(settings, await stopped_in_mid_reply(settings))
    assert message.reply is not None
    assert (message.text, message.reply.status, message.reply.rescues) == ("Half a ", ReplyStatus.QUEUED, 0)


async def test_what_was_handed_over_goes_on_without_using_up_a_rescue(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    reply_id = await stopped_in_mid_reply(settings)
    model = ScriptedModel(answer("and whole"))
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        message = await Talk(running, model).settled(reply_id)
    assert model.requests[0].unfinished == "Half a "
    assert message.reply is not None
    assert (message.text, message.reply.attempt, message.reply.rescues) == ("Half a and whole", 2, 0)


async def test_a_reply_stopped_in_the_queue_keeps_what_it_had_shown(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    reply_id = await stopped_in_mid_reply(settings)
    async with open_services(settings, model=ScriptedModel(), tokens=WordCounter()) as running:
        running.worker.places.closed = True
        await running.services.replies.stop_reply(ME, reply_id)
        message = await running.services.conversations.message(ME, reply_id)
    assert (message.text, status_of(message), message.token_count) == ("Half a ", ReplyStatus.STOPPED, 2)


async def test_a_setting_lets_what_has_shown_text_fail_when_the_server_stops(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, recovery=Recovery.KEEP)
    message = await stored(settings, await stopped_in_mid_reply(settings))
    assert message.reply is not None
    assert message.reply.error is not None
    assert (message.text, message.reply.error.code) == ("Half a ", ReplyErrorCode.INTERRUPTED)


async def test_even_then_what_has_shown_nothing_is_handed_over(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, recovery=Recovery.KEEP)
    message = await stored(settings, await stopped_in_mid_reply(settings, shown=None))
    assert status_of(message) is ReplyStatus.QUEUED


async def test_a_claim_whose_answer_was_lost_is_found_and_made(tmp_path: Path) -> None:
    model = ScriptedModel(answer("Hello"))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        running.worker.places.closed = True
        sent = await Talk(running, model).send()
        async with running.storage.write() as work:
            await work.replies.claim(running.worker.owner, 1)
            await work.commit()
        running.worker.places.closed = False
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
        await model.closed.wait()
        model.play(answer(" and whole"))
        events = await reading
    assert isinstance(events[-1].event, Ended)
    assert events[-1].event.message.text == "Half a and whole"


async def test_a_reply_that_loses_its_owner_a_third_time_fails_and_keeps_its_text(tmp_path: Path) -> None:
    model = ScriptedModel(*(gated(text, asyncio.Event()) for text in ("one ", "two ", "three ")))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        for attempt, shown in enumerate(("one ", "one two ", "one two three "), 1):
            await streaming(talk, sent.reply_id, shown)
            async with running.storage.write() as work:
                await work.workers.disown(sent.reply_id, attempt)
                await work.commit()
            await running.worker._rescuer.rescue()
        message = await talk.settled(sent.reply_id)
    assert message.reply is not None
    assert message.reply.error is not None
    assert (message.text, message.reply.error.code) == ("one two three ", ReplyErrorCode.INTERRUPTED)
    assert (message.reply.attempt, message.reply.rescues) == (3, 2)


async def test_a_process_that_others_buried_loses_its_replies_and_goes_on_under_a_new_name(tmp_path: Path) -> None:
    model = ScriptedModel(gated("Half a ", asyncio.Event()), answer("and whole"))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk, name = Talk(running, model), running.worker.owner
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a ")
        async with running.storage.write() as work:
            await work.workers.leave(name)
            await work.commit()
        await running.worker._rescuer.rescue()
        message = await talk.settled(sent.reply_id)
    assert running.worker.owner != name
    assert message.reply is not None
    assert (message.text, message.reply.attempt, message.reply.rescues) == ("Half a and whole", 2, 1)


async def test_after_an_outage_nobody_is_taken_over_for_a_lease(tmp_path: Path) -> None:
    model = ScriptedModel(gated("Half a", asyncio.Event()))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        await streaming(talk, sent.reply_id, "Half a")
        tokens = WordCounter()
        prompter, owner = Prompter(model, tokens), Owner("work_other")
        ids, telemetry = TimeOrderedIds(), RecordingTelemetry()
        other = Rescuer(running.storage, LocalNotifier(), tokens, prompter, ids, telemetry, owner, Recovery.CONTINUE)
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
