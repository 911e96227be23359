"""No unit walks through a whole table that grows: asked of SQLite's planner for what the units really send."""

import re
import sqlite3
from datetime import UTC, datetime, timedelta

from domain.accounts import ApiKey, Session, User
from domain.conversations import PageRequest
from domain.tasks import Task, TaskPriority, TaskStatus
from domain.tool_calls import ToolCallStatus
from tests.contracts.storing import ANSWER, BEGINNING, DONE, ME, Pen, Shelf, a_call, awaiting, only_sqlite
from tests.persistence.statements import Sent, sent_statements

GROWING = {
    "conversations",
    "messages",
    "replies",
    "reply_events",
    "reply_attempts",
    "idempotency_keys",
    "conversation_events",
    "users",
    "sessions",
    "refresh_tokens",
    "api_keys",
    "rates",
    "token_usage",
    "tool_calls",
    "tool_approvals",
    "tasks",
}
AN_HOUR = timedelta(hours=1)


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
            await work.messages.weight(behind, 10, 1_000, 4)
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


async def everything_of_tools(shelf: Shelf) -> list[Sent]:
    """What is sent while calls of tools are made, approved, stopped and removed."""
    task = Task("task_1", ME, None, "Tea", "", TaskPriority.LOW, TaskStatus.PENDING, BEGINNING)
    running, waiting, late = a_call(ToolCallStatus.RUNNING), a_call(), a_call()
    with sent_statements() as sent:
        pen = await shelf.awaiting(waiting)
        await shelf.decide(waiting.id)
        pen = Pen(next(lease for lease in await shelf.claim() if lease.reply_id == pen.id))
        await shelf.add_calls(pen.lease, running, late)
        await shelf.finish(pen.lease, running)
        await shelf.flush(awaiting(pen))
        await shelf.calls(pen.id)
        await shelf.expired()
        await shelf.stop(pen.id)
        ending = await shelf.calling(a_call(ToolCallStatus.RUNNING))
        await shelf.flush(ending.entry(outcome=DONE))
        async with shelf.storage.write() as work:
            await work.tool_calls.allow(pen.lease.conversation_id, "add_task")
            await work.tool_calls.allowed(pen.lease.conversation_id)
            await work.tasks.add(task)
            await work.tasks.get(ME, task.id)
            await work.tasks.of(ME, TaskStatus.PENDING, 20)
            await work.tasks.of(ME, None, 20)
            await work.tasks.complete(task.id, BEGINNING)
            await work.conversations.delete(pen.lease.conversation_id, BEGINNING)
            await work.conversations.purge(BEGINNING + timedelta(days=1))
            await work.commit()
    return sent


@only_sqlite
async def test_no_unit_reads_a_growing_table_of_tools_from_end_to_end(shelf: Shelf) -> None:
    sent = await everything_of_tools(shelf)
    plans = {statement: scans(str(shelf.database.file), statement, given) for statement, given in sent}
    assert {statement: found for statement, found in plans.items() if found} == {}


async def everything_of_accounts(shelf: Shelf) -> list[Sent]:
    """What is sent while an account lives and is deleted."""
    user = User("user_1", None, BEGINNING, "ada@example.org", "https://id.example", "42")
    session = Session("sess_1", user.id, None, BEGINNING, BEGINNING, datetime.now(UTC) + AN_HOUR)
    with sent_statements() as sent:
        async with shelf.storage.write() as work:
            await work.users.add(user, "hash")
            await work.users.get(user.id)
            await work.users.by_email("ada@example.org")
            await work.users.by_subject("https://id.example", "42")
            await work.users.page(user.id, 20)
            await work.sessions.add(session, "first")
            token = await work.sessions.by_token("first")
            assert token is not None
            await work.sessions.rotate(token, "second", BEGINNING, session.expires_at)
            await work.sessions.alive([session.id])
            await work.sessions.of_user(user.id)
            await work.sessions.revoke_all(user.id)
            await work.sessions.revoke(user.id, session.id)
            await work.sessions.sweep()
            await work.api_keys.add(ApiKey("key_1", user.id, "ci", "tk_1", BEGINNING), "key")
            await work.api_keys.by_hash("key")
            await work.api_keys.alive(["key_1"])
            await work.api_keys.of_user(user.id)
            await work.api_keys.touch("key_1", BEGINNING)
            await work.rates.hit("login:me", 3, AN_HOUR)
            await work.rates.count("login:me", AN_HOUR)
            await work.rates.sweep()
            await work.budgets.use(user.id)
            await work.rates.hold("send:me")
            await work.conversations.give(ME, user.id)
            await work.replies.unsettled_of(user.id)
            await work.users.delete(user.id)
            await work.users.purge()
            await work.commit()
    return sent


@only_sqlite
async def test_no_unit_reads_a_growing_table_of_accounts_from_end_to_end(shelf: Shelf) -> None:
    await shelf.conversation()
    sent = await everything_of_accounts(shelf)
    plans = {statement: scans(str(shelf.database.file), statement, given) for statement, given in sent}
    assert {statement: found for statement, found in plans.items() if found} == {}


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


@only_sqlite
async def test_live_replies_of_a_user_are_found_by_an_index_of_live_ones_alone(shelf: Shelf) -> None:
    with sent_statements() as sent:
        async with shelf.storage.read() as work:
            await work.budgets.use(ME)
    ((statement, given),) = sent
    connection = sqlite3.connect(str(shelf.database.file))
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    connection.close()
    assert any("ix_replies_live" in step for step in steps)
