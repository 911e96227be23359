"""What the database itself refuses, so that no mistake above it leaves half a conversation behind."""

from typing import Any

import pytest
from sqlalchemy import Table, delete, func, insert, select

from domain.errors import StorageError
from domain.tasks import Task, TaskPriority, TaskStatus
from persistence.tables import (
    conversations,
    messages,
    metadata,
    replies,
    reply_attempts,
    reply_events,
    tool_calls,
    users,
)
from tests.contracts.storing import BEGINNING, Shelf, a_conversation, a_message, a_reply


async def add(shelf: Shelf, table: Table, **values: Any) -> None:
    async with shelf.database.connect(writing=True) as connection:
        await connection.execute(insert(table).values(**values))
        await connection.commit()


async def remove(shelf: Shelf, table: Table, row_id: str) -> None:
    async with shelf.database.connect(writing=True) as connection:
        await connection.execute(delete(table).where(table.c.id == row_id))
        await connection.commit()


async def allow(shelf: Shelf, conversation_id: str) -> None:
    async with shelf.storage.write() as work:
        await work.tool_calls.allow(conversation_id, "add_task")
        await work.commit()


async def rows(shelf: Shelf) -> dict[str, int]:
    async with shelf.database.connect(writing=False) as connection:
        counts = {t.name: select(func.count()).select_from(t) for t in metadata.sorted_tables}
        return {name: (await connection.execute(query)).scalar_one() for name, query in counts.items()}


async def test_a_conversation_needs_its_user(shelf: Shelf) -> None:
    with pytest.raises(StorageError):
        await shelf.conversation(user_id="user_absent")


async def test_a_message_needs_its_conversation(shelf: Shelf) -> None:
    with pytest.raises(StorageError):
        await shelf.message("conv_absent")


async def test_a_message_needs_its_parent(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    with pytest.raises(StorageError):
        await shelf.message(conversation.id, "msg_absent")


async def test_a_parent_cannot_go_before_its_children(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    parent = await shelf.message(conversation.id)
    child = await shelf.message(conversation.id, parent.id)
    with pytest.raises(StorageError):
        await remove(shelf, messages, parent.id)
    await remove(shelf, messages, child.id)
    await remove(shelf, messages, parent.id)


async def test_a_reply_needs_its_message(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    async with shelf.storage.write() as work:
        with pytest.raises(StorageError):
            await work.replies.add(a_reply(a_message(conversation.id)))


async def test_ids_are_used_once(shelf: Shelf) -> None:
    stored = await shelf.conversation()
    with pytest.raises(StorageError):
        await shelf.conversation(id=stored.id)
    message = await shelf.message(stored.id)
    with pytest.raises(StorageError):
        await shelf.message(stored.id, id=message.id)


async def test_an_event_needs_its_reply_and_has_its_number_alone(shelf: Shelf) -> None:
    event = {"seq": 1, "attempt": 1, "kind": "text", "part": 0, "text": "x"}
    with pytest.raises(StorageError):
        await add(shelf, reply_events, reply_id="msg_absent", **event)
    pen = await shelf.streaming()
    with pytest.raises(StorageError):
        await add(shelf, reply_events, reply_id=pen.id, **event)
    assert len(await shelf.log(pen.id)) == 1


async def test_an_attempt_is_paid_for_once(shelf: Shelf) -> None:
    pen = await shelf.settled()
    tokens = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    with pytest.raises(StorageError):
        await add(
            shelf,
            reply_attempts,
            reply_id=pen.id,
            attempt=1,
            ended_at=BEGINNING,
            estimated=False,
            **dict.fromkeys(tokens, 1),
        )


async def test_a_call_needs_its_reply_and_has_its_id_alone(shelf: Shelf) -> None:
    call = {"part": 0, "attempt": 1, "status": "RUNNING", "data": {}}
    with pytest.raises(StorageError):
        await add(shelf, tool_calls, id="call_1", reply_id="msg_absent", **call)
    pen = await shelf.streaming()
    await add(shelf, tool_calls, id="call_1", reply_id=pen.id, **call)
    with pytest.raises(StorageError):
        await add(shelf, tool_calls, id="call_1", reply_id=pen.id, **call)


async def test_everything_goes_with_its_conversation(shelf: Shelf) -> None:
    await shelf.beat()
    before = await rows(shelf)
    conversation = await shelf.conversation()
    parent = await shelf.message(conversation.id)
    await shelf.settled(conversation_id=conversation.id, parent_id=parent.id)
    await shelf.awaiting(conversation_id=conversation.id)
    await allow(shelf, conversation.id)
    await remove(shelf, conversations, conversation.id)
    after = await rows(shelf)
    assert after.pop("conversation_events") > before.pop("conversation_events"), "that it is gone is told for longer"
    assert after == before


async def test_everything_goes_with_its_user(shelf: Shelf) -> None:
    await shelf.beat()
    before = await rows(shelf)
    user_id = await shelf.user()
    conversation = await shelf.conversation(user_id=user_id)
    await shelf.settled(conversation_id=conversation.id)
    await shelf.awaiting(conversation_id=conversation.id)
    await allow(shelf, conversation.id)
    task = Task("task_1", user_id, conversation.id, "Tea", "", TaskPriority.LOW, TaskStatus.PENDING, BEGINNING)
    async with shelf.storage.write() as work:
        assert await work.tasks.add(task)
        await work.keys.reserve(user_id, "sendMessage", "k", "print")
        await work.commit()
    await remove(shelf, users, user_id)
    assert await rows(shelf) == before


async def test_a_reply_goes_with_its_message(shelf: Shelf) -> None:
    pen = await shelf.settled()
    await remove(shelf, messages, pen.id)
    async with shelf.database.connect(writing=False) as connection:
        assert (await connection.execute(select(replies))).all() == []
        assert (await connection.execute(select(reply_events))).all() == []


async def test_a_unit_that_met_a_constraint_can_do_nothing_more_by_accident(shelf: Shelf) -> None:
    """PostgreSQL refuses every further statement; SQLite would go on, so whoever caught the error must not commit."""
    async with shelf.storage.write() as work:
        await work.conversations.add(a_conversation())
        with pytest.raises(StorageError):
            await work.messages.add(a_message("conv_absent"))
    assert (await rows(shelf))["conversations"] == 0
