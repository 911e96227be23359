"""The contract of tasks: each user's own, the newest first, and not without end, on every database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert

from domain.tasks import MAX_TASKS, Task, TaskPriority, TaskStatus
from persistence import tables
from tests.contracts.storing import BEGINNING, ME, Shelf, new_id


def a_task(**changes: Any) -> Task:
    plain = Task(new_id("task"), ME, None, "Tea", "", TaskPriority.MEDIUM, TaskStatus.PENDING, BEGINNING)
    return replace(plain, **changes)


async def add(shelf: Shelf, task: Task) -> bool:
    async with shelf.storage.write() as work:
        added = await work.tasks.add(task)
        await work.commit()
    return added


async def of(shelf: Shelf, status: TaskStatus | None = None, limit: int = 100, user_id: str = ME) -> list[Task]:
    async with shelf.storage.read() as work:
        return await work.tasks.of(user_id, status, limit)


async def get(shelf: Shelf, task_id: str, user_id: str = ME) -> Task | None:
    async with shelf.storage.read() as work:
        return await work.tasks.get(user_id, task_id)


async def test_a_task_comes_back_as_it_was_added(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    done = datetime(2026, 5, 1, tzinfo=UTC)
    for task in (
        a_task(conversation_id=conversation.id, title="Buy tea 🍵", description="green", priority=TaskPriority.HIGH),
        a_task(status=TaskStatus.COMPLETED, completed_at=done),
    ):
        assert await add(shelf, task)
        assert await get(shelf, task.id) == task


async def test_tasks_are_listed_newest_first_of_one_user_and_state(shelf: Shelf) -> None:
    old, done, new = tasks = [a_task(), a_task(status=TaskStatus.COMPLETED, completed_at=BEGINNING), a_task()]
    foreign = a_task(user_id=await shelf.user())
    for task in (*tasks, foreign):
        assert await add(shelf, task)
    assert await of(shelf) == [new, done, old]
    assert await of(shelf, TaskStatus.PENDING) == [new, old]
    assert await of(shelf, TaskStatus.COMPLETED) == [done]
    assert await of(shelf, limit=1) == [new]
    assert await of(shelf, user_id=foreign.user_id) == [foreign]


async def test_a_foreign_task_is_not_found(shelf: Shelf) -> None:
    task = a_task()
    await add(shelf, task)
    assert await get(shelf, task.id, await shelf.user()) is None
    assert await get(shelf, "task_absent") is None


async def test_a_task_is_completed_at_an_instant(shelf: Shelf) -> None:
    task, other = a_task(), a_task()
    await add(shelf, task)
    await add(shelf, other)
    async with shelf.storage.write() as work:
        await work.tasks.complete(task.id, shelf.clock.later())
        await work.commit()
    assert await get(shelf, task.id) == replace(task, status=TaskStatus.COMPLETED, completed_at=shelf.clock.at)
    assert await get(shelf, other.id) == other


async def test_a_user_has_no_more_than_so_many_tasks(shelf: Shelf) -> None:
    rows = [vars_of(a_task(status=TaskStatus.COMPLETED)) for _ in range(MAX_TASKS - 1)]
    async with shelf.database.connect(writing=True) as connection:
        await connection.execute(insert(tables.tasks), rows)
        await connection.commit()
    assert await add(shelf, a_task())
    assert not await add(shelf, a_task())
    assert len(await of(shelf, limit=2 * MAX_TASKS)) == MAX_TASKS
    assert await add(shelf, a_task(user_id=await shelf.user()))


def vars_of(task: Task) -> dict[str, Any]:
    return {column.name: getattr(task, column.name) for column in tables.tasks.c}


async def test_a_task_outlives_the_conversation_it_was_made_in(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    task = a_task(conversation_id=conversation.id)
    await add(shelf, task)
    async with shelf.storage.write() as work:
        await work.conversations.delete(conversation.id, BEGINNING)
        await work.conversations.purge(shelf.clock.later())
        await work.commit()
    assert await get(shelf, task.id) == replace(task, conversation_id=None)


async def test_tasks_go_with_their_user(shelf: Shelf) -> None:
    ann = await shelf.user()
    task = a_task(user_id=ann)
    await add(shelf, task)
    async with shelf.storage.write() as work:
        await work.users.delete(ann)
        assert await work.users.purge() == 1
        await work.commit()
    assert await get(shelf, task.id, ann) is None
