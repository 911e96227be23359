"""The journal: persist, then publish; the same rows again after an error; nothing after the lease is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from domain.accounts import LOCAL_USER_ID
from domain.conversations import Conversation, GenerationSettings, Message, PartKind, Role, TitleSource
from domain.errors import StorageError
from domain.events import Folder, PartAdded, TextDelta
from domain.journal import GROUP, Journal
from domain.replies import FinishReason, HandOver, Lease, Outcome, Owner, Reply, ReplyStatus
from domain.storage import FlushEntry, FlushReport, Storage, UnitOfWork
from domain.tail import PAUSE_CHARACTERS, Halt, Tail
from domain.turns import Turns
from persistence import schema
from persistence.database import Database
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlStorage, SqlUnitOfWork
from tertulia.services import SystemClock, open_services
from tests.domain.conftest import Talk
from tests.domain.test_streaming import gated
from tests.doubles import RecordingTelemetry, ScriptedModel, WordCounter
from tests.serving import settings_for

OWNER = "work_test"


class TroubledStorage:
    """A real storage whose commits wait while `open` is clear, and whose next `lost` commits lose their answer."""

    def __init__(self, real: Storage) -> None:
        self._real = real
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = asyncio.Event()
        self.lost = 0
        self.refused = False
        self.embedded = True

    async def flush(self, owner: str, entries: Sequence[FlushEntry]) -> FlushReport:
        self.waiting.set()
        await self.open.wait()
        if self.refused:
            raise StorageError("disk full")
        report = await self._real.flush(owner, entries)
        if self.lost:
            self.lost -= 1
            raise StorageError("the answer to COMMIT was lost")
        return report

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._real.write()

    def peek(self) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._real.peek()

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._real.read()


@dataclass
class Desk:
    """A journal at work on troubled storage, with one claimed reply."""

    storage: TroubledStorage
    journal: Journal
    lease: Lease
    tail: Tail
    telemetry: RecordingTelemetry

    async def stored(self) -> list[tuple[int, object]]:
        async with self.storage.read() as work:
            assert isinstance(work, SqlUnitOfWork)
            return [(e.seq, e.event) for e in await work.log.after(self.lease.reply_id, self.lease.next_seq - 1, 100)]


async def claimed(storage: SqlStorage) -> Lease:
    """A queued reply in an empty database, claimed by this test."""
    now, settings = SystemClock().now(), GenerationSettings("scripted")
    conversation = Conversation(
        "conv_1", LOCAL_USER_ID, "Test", TitleSource.USER, now, now, now, settings, {}, leaf_id=None
    )
    message = Message("msg_1", "conv_1", None, Role.ASSISTANT, now, (), 0, {})
    reply = Reply("msg_1", "conv_1", ReplyStatus.QUEUED, settings, None, None, 0, 0, 0, False, now)
    async with storage.write() as work:
        await work.conversations.add(conversation)
        await work.messages.add(message)
        await work.replies.add(reply)
        await work.workers.enter(OWNER)
        (lease,) = await work.replies.claim(OWNER, 1)
        await work.commit()
    return lease


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    database = Database(f"sqlite:///{tmp_path}/journal.db")
    await schema.upgrade(database)
    real = SqlStorage(database, SystemClock())
    lease = await claimed(real)
    storage, telemetry = TroubledStorage(real), RecordingTelemetry()
    journal = Journal(storage, LocalNotifier(), telemetry, Owner(OWNER), patience=0)
    running = asyncio.create_task(journal.run())
    yield Desk(storage, journal, lease, journal.open(lease, Folder()), telemetry)
    running.cancel()
    await asyncio.wait([running])
    await database.close()


DONE = Outcome(ReplyStatus.COMPLETE, FinishReason.STOP)


async def test_nothing_is_visible_before_it_is_committed(desk: Desk) -> None:
    desk.storage.open.clear()
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    await desk.storage.waiting.wait()
    assert desk.tail.after(desk.lease.next_seq - 1) == []
    desk.storage.open.set()
    await desk.tail.settle(DONE)
    assert desk.tail.after(desk.lease.next_seq - 1) != []


async def test_after_a_lost_answer_the_same_rows_are_sent_again_and_nothing_is_doubled(desk: Desk) -> None:
    desk.storage.lost = 2
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    desk.tail.append(TextDelta(0, "one"))
    assert await desk.tail.settle(DONE)
    numbers = [seq for seq, _ in await desk.stored()]
    assert numbers == list(range(desk.lease.next_seq, desk.lease.next_seq + len(numbers)))
    assert [event for _, event in await desk.stored()].count(TextDelta(0, "one")) == 1


async def test_what_gathers_during_a_flush_is_one_event_of_the_next(desk: Desk) -> None:
    desk.storage.open.clear()
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    await desk.storage.waiting.wait()
    for piece in ("a", "b", "c"):
        desk.tail.append(TextDelta(0, piece))
    desk.storage.open.set()
    await desk.tail.settle(DONE)
    assert TextDelta(0, "abc") in [event for _, event in await desk.stored()]


async def test_the_text_so_far_knows_what_is_being_committed(desk: Desk) -> None:
    desk.storage.open.clear()
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    desk.tail.append(TextDelta(0, "one "))
    await desk.storage.waiting.wait()
    desk.tail.append(TextDelta(0, "two"))
    assert [part.text for part in desk.tail.parts_so_far()] == ["one two"]
    desk.storage.open.set()


async def test_a_lost_lease_halts_the_generator_and_stores_nothing_more(desk: Desk) -> None:
    async with desk.storage.write() as work:
        (orphan,) = await work.workers.orphans(0, 10)
        await work.workers.requeue(orphan, HandOver())
        await work.commit()
    before = await desk.stored()
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    await desk.tail.ended.wait()
    assert desk.tail.halt is Halt.LOST
    assert await desk.stored() == before
    assert not await desk.tail.settle(DONE)


async def test_the_late_end_of_an_earlier_attempt_leaves_the_present_one_alone(desk: Desk) -> None:
    present = desk.journal.open(replace(desk.lease, attempt=2), Folder())
    desk.journal.abandon(desk.lease)
    desk.tail.stop(Halt.LOST)
    await desk.tail.settle(DONE)
    assert desk.journal.tail(desk.lease.reply_id) is present


async def test_rows_that_the_database_cannot_take_are_given_up_alone(desk: Desk) -> None:
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    desk.tail.append(TextDelta(0, "\ud800"))
    await desk.tail.ended.wait()
    assert desk.tail.halt is Halt.LOST


async def test_a_tail_whose_lease_was_lost_sends_readers_to_the_log(desk: Desk) -> None:
    desk.tail.stop(Halt.LOST)
    assert desk.tail.after(desk.lease.next_seq - 1) is None


async def test_who_waits_at_the_tail_of_an_attempt_is_let_go_when_a_later_one_begins_here(desk: Desk) -> None:
    reading = asyncio.create_task(desk.tail.offered(lambda _: True))
    await asyncio.sleep(0)
    desk.journal.open(replace(desk.lease, attempt=desk.lease.attempt + 1), Folder())
    await reading
    assert desk.tail.halt is Halt.LOST


async def test_a_writer_far_ahead_of_the_storage_has_to_wait(desk: Desk) -> None:
    desk.storage.open.clear()
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    desk.tail.append(TextDelta(0, "x" * (PAUSE_CHARACTERS + 1)))
    waiting = asyncio.create_task(desk.tail.room())
    await desk.storage.waiting.wait()
    assert not waiting.done()
    desk.storage.open.set()
    await waiting


async def test_when_the_storage_stays_away_the_generator_is_told_to_give_up(desk: Desk) -> None:
    desk.storage.refused = True
    desk.tail.append(PartAdded(0, PartKind.TEXT))
    answering: asyncio.Task[Outcome] = asyncio.create_task(forever())
    desk.tail.bind(answering)
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert desk.tail.halt is Halt.STORAGE
    desk.storage.refused = False
    failed = Outcome(ReplyStatus.FAILED, FinishReason.ERROR)
    assert await desk.tail.settle(failed)


async def forever() -> Outcome:
    await asyncio.Event().wait()
    return DONE


async def test_of_many_models_each_group_is_flushed_before_the_next_is_read(desk: Desk) -> None:
    turns, shown = Turns(), asyncio.Event()
    journal = Journal(desk.storage, LocalNotifier(), desk.telemetry, Owner(OWNER), turns)
    tail = journal.open(desk.lease, Folder())
    tail.append(PartAdded(0, PartKind.TEXT))

    async def read(number: int) -> None:
        await turns.wait()
        tail.append(TextDelta(0, f"{number} "))
        if number == 3 * GROUP - 1:
            shown.set()

    reading = [asyncio.create_task(read(number)) for number in range(3 * GROUP)]
    await turns.wanted.wait()
    running = asyncio.create_task(journal.run())
    await shown.wait()
    await tail.settle(DONE)
    running.cancel()
    texts = [event.text for _, event in await desk.stored() if isinstance(event, TextDelta)]
    assert [len(text.split()) for text in texts] == [GROUP] * 3
    assert all(task.done() for task in reading)


async def test_a_first_piece_does_not_drag_the_pieces_of_others_along(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    model = ScriptedModel(gated("one ", *gates, "two"))
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = [await talk.send() for _ in range(5)]
        for gate in gates:
            gate.set()
        replies = [await talk.settled(s.reply_id) for s in sent]
    assert {(reply.text, reply.reply and reply.reply.status) for reply in replies} == {
        ("one two", ReplyStatus.COMPLETE)
    }
