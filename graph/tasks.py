"""The viewer's task list, which the built-in tools work on: the type and the query."""

from datetime import datetime

import strawberry

from domain import tasks as domain
from graph.context import Info
from graph.conversations import Conversation

strawberry.enum(domain.TaskPriority)
strawberry.enum(domain.TaskStatus)
TASKS_PER_PAGE = 100


@strawberry.type(description="Something to be done, as the tool `create_task` noted it.")
class Task:
    value: strawberry.Private[domain.Task]
    id: strawberry.ID
    title: str
    priority: domain.TaskPriority
    status: domain.TaskStatus
    created_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, value: domain.Task) -> "Task":
        return cls(
            value=value,
            id=strawberry.ID(value.id),
            title=value.title,
            priority=value.priority,
            status=value.status,
            created_at=value.created_at,
            completed_at=value.completed_at,
        )

    @strawberry.field
    def description(self, info: Info) -> str:
        return info.context.shown(self.value.description)

    @strawberry.field(description="Where it was made; null when that was deleted.")
    async def conversation(self, info: Info) -> Conversation | None:
        if self.value.conversation_id is None:
            return None
        found = await info.context.conversations.load(self.value.conversation_id)
        return None if found is None else Conversation.of(found)


@strawberry.type
class TaskQuery:
    @strawberry.field(description="Tasks made by the built-in task tools, newest first; at most 1,000.")
    async def tasks(
        self, info: Info, status: domain.TaskStatus | None = None, first: int | None = TASKS_PER_PAGE
    ) -> list[Task]:
        context, limit = info.context, TASKS_PER_PAGE if first is None else first
        return [Task.of(task) for task in await context.services.tasks.of(context.user_id, status, limit)]
