"""The built-in tools on real storage: what they store, what they answer, and what they refuse."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from domain.tasks import MAX_TASKS, TaskPriority, TaskStatus
from domain.tools import ToolError
from persistence import schema
from persistence.database import Database
from persistence.unit_of_work import SqlStorage
from tertulia.services import SystemClock
from tertulia.task_tools import complete_task, create_task, list_tasks
from tertulia.tool_functions import FunctionTool
from tests.contracts.storing import SetClock, Shelf, a_conversation
from tests.tertulia.tool_contexts import ME, context_on


class Desk:
    """Each call is one committed unit of work, as when a model makes it."""

    def __init__(self, storage: SqlStorage, user_id: str) -> None:
        self.storage = storage
        self.user = replace(ME, id=user_id)
        self.conversation = a_conversation(user_id=user_id)

    async def call(self, tool: FunctionTool, **arguments: object) -> dict[str, object]:
        context = context_on(self.storage, self.conversation, self.user)
        async with context.unit:
            result = await tool.run(context, arguments)
            await (await context.work()).commit()
        assert isinstance(result, dict)
        return result

    async def titles(self, **arguments: object) -> list[str]:
        listed = (await self.call(list_tasks, **arguments))["tasks"]
        assert isinstance(listed, list)
        return [task["title"] for task in listed]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/tasks.db")
    await schema.upgrade(database)
    yield database
    await database.close()


@pytest.fixture
async def desk(database: Database) -> Desk:
    return await desk_in(database)


async def desk_in(database: Database) -> Desk:
    """Of a new user, with a conversation."""
    storage = SqlStorage(database, SystemClock())
    shelf = Shelf(storage, database, SetClock())
    desk = Desk(storage, await shelf.user())
    async with storage.write() as work:
        await work.conversations.add(desk.conversation)
        await work.commit()
    return desk


async def test_a_task_is_stored_for_the_user_with_where_it_was_made(desk: Desk) -> None:
    made = await desk.call(create_task, title=" Water the plants ", description="All.", priority="high")
    assert made == {"id": made["id"], "title": "Water the plants", "priority": "high", "status": "pending"}
    async with desk.storage.read() as work:
        task = await work.tasks.get(desk.user.id, str(made["id"]))
    assert task is not None
    assert (task.description, task.priority, task.status) == ("All.", TaskPriority.HIGH, TaskStatus.PENDING)
    assert task.conversation_id == desk.conversation.id


async def test_a_title_is_enough(desk: Desk) -> None:
    assert (await desk.call(create_task, title="Tea"))["priority"] == "medium"


async def test_nothing_is_stored_when_the_unit_of_work_is_not_committed(desk: Desk) -> None:
    context = context_on(desk.storage, desk.conversation, desk.user)
    async with context.unit:
        await create_task.run(context, {"title": "Tea"})
    assert await desk.titles() == []


async def test_tasks_are_listed_newest_first_and_by_status(desk: Desk) -> None:
    first = await desk.call(create_task, title="Tea")
    await desk.call(create_task, title="Cake")
    await desk.call(complete_task, task_id=first["id"])
    assert await desk.titles() == ["Cake", "Tea"]
    assert await desk.titles(status="completed") == ["Tea"]
    assert await desk.titles(status="pending") == ["Cake"]


async def test_more_tasks_than_are_told_are_mentioned(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tertulia.task_tools.LISTED", 1)
    for title in ("Tea", "Cake"):
        await desk.call(create_task, title=title)
    listed = await desk.call(list_tasks)
    assert (listed["note"], await desk.titles()) == ("Only the newest 1.", ["Cake"])


async def test_completing_a_task_twice_says_the_same_and_keeps_the_first_time(desk: Desk) -> None:
    made = await desk.call(create_task, title="Tea")
    first = await desk.call(complete_task, task_id=made["id"])
    async with desk.storage.read() as work:
        before = await work.tasks.get(desk.user.id, str(made["id"]))
    assert await desk.call(complete_task, task_id=made["id"]) == first == {**made, "status": "completed"}
    async with desk.storage.read() as work:
        assert await work.tasks.get(desk.user.id, str(made["id"])) == before


async def test_the_tasks_of_others_are_neither_listed_nor_completed(desk: Desk, database: Database) -> None:
    made = await desk.call(create_task, title="Tea")
    other = await desk_in(database)
    assert await other.titles() == []
    with pytest.raises(ToolError, match="no task with this id"):
        await other.call(complete_task, task_id=made["id"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"title": "  "}, "title is empty"),
        ({"title": "x" * 201}, "title has 201 characters; at most 200"),
        ({"title": "Tea", "description": "x" * 4_001}, "description has 4001 characters; at most 4000"),
        ({"title": "Tea\0"}, "NUL"),
        ({"title": "Tea", "priority": "urgent"}, "priority: Input should be 'low', 'medium' or 'high'"),
    ],
)
async def test_what_cannot_be_stored_is_refused_with_the_reason(
    desk: Desk, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(ToolError, match=reason):
        await desk.call(create_task, **arguments)
    assert await desk.titles() == []


async def test_a_user_with_the_most_tasks_gets_no_further_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence.tasks.MAX_TASKS", 1)
    await desk.call(create_task, title="Tea")
    with pytest.raises(ToolError, match=f"has {MAX_TASKS} tasks already"):
        await desk.call(create_task, title="Cake")
    assert await desk.titles() == ["Tea"]


def test_creating_is_not_repeated_after_a_crash_and_the_rest_is() -> None:
    assert [made.idempotent for made in (create_task, list_tasks, complete_task)] == [False, True, True]
