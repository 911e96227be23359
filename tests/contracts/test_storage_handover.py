"""The contract of attempts that end without an end: handed over, gone on with, or stopped meanwhile."""

from dataclasses import replace

from domain.conversations import MessagePart, PartKind
from domain.events import Finished, StatusChanged
from domain.replies import HandOver, ReplyStatus, Usage
from domain.storage import FlushEntry
from tests.contracts.storing import ANSWER, DONE, OWNER, Pen, Shelf, add_reply
from tests.contracts.test_storage_log import LOST, MINE, retaken

HANDED_OVER = HandOver(Usage(5, 2, estimated=True), requests=3, token_count=2)


def handing_over(pen: Pen) -> FlushEntry:
    return replace(pen.entry(*ANSWER, StatusChanged(ReplyStatus.QUEUED)), outcome=HANDED_OVER)


async def test_an_attempt_that_is_handed_over_waits_again_with_what_it_had_shown(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    assert await shelf.flush(handing_over(pen)) == [MINE]
    message = await shelf.found(pen.id)
    reply = message.reply
    assert reply is not None
    assert (message.text, message.token_count) == ("Good morning", 2)
    assert (reply.status, reply.rescues, reply.requests, reply.usage) == (ReplyStatus.QUEUED, 0, 3, HANDED_OVER.usage)
    assert await shelf.log(pen.id, after=1) == pen.written


async def test_the_next_attempt_goes_on_with_the_numbers_of_one_that_was_handed_over(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(handing_over(pen))
    (lease,) = await shelf.claim("work_2")
    assert (lease.attempt, lease.next_seq, lease.rescues) == (2, pen.written[-1].seq + 2, 0)


async def test_an_attempt_that_is_stopped_while_it_is_handed_over_ends_there(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.stop(pen.id)
    assert await shelf.flush(handing_over(pen)) == [MINE]
    message = await shelf.found(pen.id)
    assert (message.text, await shelf.status(pen.id)) == ("Good morning", ReplyStatus.STOPPED)
    assert (await shelf.log(pen.id))[-1].event == Finished(ReplyStatus.STOPPED)


async def test_an_attempt_that_was_overtaken_cannot_hand_over(shelf: Shelf) -> None:
    old = await shelf.streaming()
    await retaken(shelf, old)
    assert await shelf.flush(handing_over(old)) == [LOST]
    assert await shelf.status(old.id) is ReplyStatus.STREAMING


async def test_an_owner_whose_heartbeat_is_gone_stores_nothing(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    async with shelf.storage.write() as work:
        await work.workers.leave(OWNER)
        await work.commit()
    assert await shelf.flush(pen.entry(*ANSWER)) == [LOST]
    assert await shelf.flush(pen.entry(outcome=DONE)) == [LOST]
    assert await shelf.log(pen.id, after=1) == []


async def test_a_reply_that_begins_with_an_earlier_ones_parts_goes_on_after_them(shelf: Shelf) -> None:
    parts = (MessagePart(0, PartKind.REASONING, "hm"), MessagePart(1, PartKind.TEXT, "Half a "))
    conversation = await shelf.conversation()
    async with shelf.storage.write() as work:
        reply_id = await add_reply(work, conversation.id)
        await work.log.begin(reply_id, parts)
        await work.commit()
    assert (await shelf.found(reply_id)).parts == parts
    (lease,) = await shelf.claim()
    assert (lease.attempt, lease.next_seq, lease.fresh) == (1, 6, False)
