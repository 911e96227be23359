"""No unit walks through a whole table that grows: asked of SQLite's planner for what the units really send."""

import re
import sqlite3
from datetime import timedelta

from domain.conversations import PageRequest
from tests.contracts.storing import ANSWER, BEGINNING, DONE, ME, Shelf, only_sqlite
from tests.persistence.statements import Sent, sent_statements

GROWING = {
    "conversations",
    "messages",
    "replies",
    "reply_events",
    "reply_attempts",
    "idempotency_keys",
    "conversation_events",
}


def scans(file: str, statement: str, parameters: object) -> list[str]:
    """The steps of a plan that read a growing table from end to end."""
    if isinstance(parameters, list):
        parameters = parameters[0]
    connection = sqlite3.connect(file)
    try:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]  # type: ignore[arg-type]
    finally:
        connection.close()
    return [step for step in steps if (found := re.match(r"SCAN (\w+)", step)) and found[1] in GROWING]


async def everything(shelf: Shelf) -> list[Sent]:
    """What is sent while a conversation lives and is deleted."""
    with sent_statements() as sent:
        conversation = await shelf.conversation()
        said = await shelf.message(conversation.id)
        pen = await shelf.streaming(conversation.id, parent_id=said.id)
        behind = await shelf.queued(conversation.id, pen.id)
        await shelf.flush(pen.entry(*ANSWER))
        await shelf.found(pen.id)
        await shelf.stop(behind)
        await shelf.stop(pen.id)
        await shelf.flush(pen.entry(outcome=DONE))
        async with shelf.storage.read() as work:
            await work.conversations.get(ME, conversation.id)
            page = await work.conversations.page(ME, PageRequest(first=20))
            await work.conversations.page(ME, PageRequest(last=20, before=page.items[0].cursor))
            await work.conversations.count(ME)
            for request in (PageRequest(last=20), PageRequest(first=1, after=said.id)):
                await work.messages.path(conversation.id, behind, request)
                await work.messages.all(conversation.id, request)
            await work.messages.newest(behind, 1_000, 4)
            await work.messages.get_many(ME, [said.id, pen.id])
            await work.messages.children([(conversation.id, None), (conversation.id, said.id)])
            await work.replies.unsettled(conversation.id)
            await work.replies.queued()
            await work.replies.progress(pen.id)
            await work.replies.held("work_1")
            await work.log.after(pen.id, 1, 100)
            await work.conversations.get_many(ME, [conversation.id])
            await work.feed.newest(ME)
            await work.feed.after(ME, 1, 100)
        async with shelf.storage.write() as work:
            await work.keys.reserve(ME, "sendMessage", "k", "print")
            await work.keys.keep(ME, "sendMessage", "k", {})
            await work.workers.orphans(10, 50)
            await work.log.sweep(BEGINNING + timedelta(days=1))
            await work.keys.sweep(BEGINNING)
            await work.feed.sweep(timedelta())
            await work.conversations.delete(conversation.id, BEGINNING)
            await work.conversations.purge(BEGINNING + timedelta(days=1))
            await work.commit()
    return sent


@only_sqlite
async def test_no_unit_reads_a_growing_table_from_end_to_end(shelf: Shelf) -> None:
    sent = await everything(shelf)
    slow = {
        statement: found for statement, given in sent if (found := scans(str(shelf.database.file), statement, given))
    }
    assert slow == {}


@only_sqlite
async def test_the_sidebar_is_read_in_the_order_of_its_index(shelf: Shelf) -> None:
    with sent_statements() as sent:
        async with shelf.storage.read() as work:
            await work.conversations.page(ME, PageRequest(first=20))
    ((statement, given),) = sent
    connection = sqlite3.connect(str(shelf.database.file))
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    connection.close()
    assert len(steps) == 1
    assert "ix_conversations_sidebar" in steps[0]
