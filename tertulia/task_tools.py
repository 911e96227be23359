"""The built-in tools: the user's task list. They are also the example of how tools are written.

Rules and storage of tasks are the domain's.
"""

from typing import Literal

from domain.tasks import MAX_DESCRIPTION, MAX_TASKS, MAX_TITLE, Task, TaskPriority, TaskStatus
from domain.tools import ToolContext, ToolError
from tertulia.registry import Registry
from tertulia.tool_functions import tool

LISTED = 100
"""Most tasks that a model is told at once."""
Priority = Literal["low", "medium", "high"]
Status = Literal["pending", "completed"]


def setup(registry: Registry) -> None:
    for made in (create_task, list_tasks, complete_task):
        registry.add_tool(made)


@tool
async def create_task(
    context: ToolContext, title: str, description: str = "", priority: Priority = "medium"
) -> dict[str, str]:
    """Add a task to the user's task list.

    Args:
        title: What is to be done, in a few words.
        description: Details, if there are any.
        priority: How urgent it is.
    """
    task = Task(
        id=context.new_id("task"),
        user_id=context.user.id,
        conversation_id=context.conversation.id,
        title=_text("title", title.strip(), MAX_TITLE),
        description=_text("description", description, MAX_DESCRIPTION),
        priority=TaskPriority[priority.upper()],
        status=TaskStatus.PENDING,
        created_at=context.now,
    )
    if not task.title:
        raise ToolError("The title is empty; say in a few words what is to be done.")
    if not await (await context.work()).tasks.add(task):
        raise ToolError(f"The user has {MAX_TASKS} tasks already, which is the most; no task was added.")
    return _shown(task)


@tool(idempotent=True)
async def list_tasks(context: ToolContext, status: Status | None = None) -> dict[str, object]:
    """List the user's tasks, the newest first.

    Args:
        status: Only tasks of this status; all of them if left out.
    """
    wanted = None if status is None else TaskStatus[status.upper()]
    tasks = await (await context.work()).tasks.of(context.user.id, wanted, LISTED + 1)
    listed = [_shown(task) | {"description": task.description} for task in tasks[:LISTED]]
    return {"tasks": listed} if len(tasks) <= LISTED else {"tasks": listed, "note": f"Only the newest {LISTED}."}


@tool(idempotent=True)
async def complete_task(context: ToolContext, task_id: str) -> dict[str, str]:
    """Mark a task of the user's task list as completed.

    Args:
        task_id: The id of the task, as create_task and list_tasks give it.
    """
    work = await context.work()
    task = await work.tasks.get(context.user.id, task_id)
    if task is None:
        raise ToolError("The user has no task with this id; list_tasks gives the ids.")
    if task.status is not TaskStatus.COMPLETED:
        await work.tasks.complete(task_id, context.now)
    return _shown(task) | {"status": "completed"}


def _text(name: str, text: str, most: int) -> str:
    if "\0" in text:
        raise ToolError(f"The {name} contains a NUL character, which cannot be stored.")
    if len(text) > most:
        raise ToolError(f"The {name} has {len(text)} characters; at most {most} are allowed.")
    return text


def _shown(task: Task) -> dict[str, str]:
    return {
        "id": task.id,
        "title": task.title,
        "priority": task.priority.lower(),
        "status": task.status.lower(),
    }
