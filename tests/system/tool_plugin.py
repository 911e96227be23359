"""Tools for servers under test, registered by TERTULIA_PLUGINS; each tells in a file how far it came.

`book` and `reserve` act outside of the database and cannot be repeated, `note` writes in the unit of work that stores
its result, `look` may be repeated. All take their time, so that faults find them at work.
"""

import asyncio

from domain.tasks import Task, TaskPriority, TaskStatus
from tertulia import Registry, ToolContext, tool
from tests.system.effects import Mark, Stage, leave

BEFORE_SECONDS, AFTER_SECONDS = 0.15, 0.15
NAMES = ("book", "look", "note", "reserve")


@tool(idempotent=True)
async def look(context: ToolContext, text: str) -> str:
    """Looks something up."""
    leave(Mark(Stage.BEGAN, context.call_id, "look", text))
    await asyncio.sleep(BEFORE_SECONDS)
    leave(Mark(Stage.EFFECT, context.call_id, "look", text))
    return f"looked at {text}"


@tool
async def book(context: ToolContext, text: str) -> str:
    """Books something, for good."""
    return await _book(context, "book", text)


@tool(needs_approval=True)
async def reserve(context: ToolContext, text: str) -> str:
    """Books something, for good, when the user agrees."""
    return await _book(context, "reserve", text)


@tool
async def note(context: ToolContext, text: str) -> str:
    """Notes something: a task whose title is the id of the call."""
    leave(Mark(Stage.BEGAN, context.call_id, "note", text))
    await asyncio.sleep(BEFORE_SECONDS)
    work = await context.work()
    task = Task(
        context.new_id("task"),
        context.user.id,
        context.conversation.id,
        context.call_id,
        text,
        TaskPriority.LOW,
        TaskStatus.PENDING,
        context.now,
    )
    assert await work.tasks.add(task), "there are too many tasks"
    leave(Mark(Stage.WROTE, context.call_id, "note", text))
    await asyncio.sleep(AFTER_SECONDS)
    return f"noted {text}"


async def _book(context: ToolContext, name: str, text: str) -> str:
    leave(Mark(Stage.BEGAN, context.call_id, name, text))
    await asyncio.sleep(BEFORE_SECONDS)
    leave(Mark(Stage.EFFECT, context.call_id, name, text))
    await asyncio.sleep(AFTER_SECONDS)
    return f"booked {text}"


def setup(registry: Registry) -> None:
    for made in (look, book, reserve, note):
        registry.add_tool(made)
