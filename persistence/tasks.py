"""Tasks: rows and values. Nothing here knows that models work on them."""

from datetime import datetime

from sqlalchemy import func, insert, literal, select, update

from domain.tasks import MAX_TASKS, Task, TaskPriority, TaskStatus
from persistence.connection import AnyRow, Connection
from persistence.tables import tasks


class SqlTasks:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, task: Task) -> bool:
        """Counted in the statement that inserts: several at once may pass the limit by as many, which harms nobody."""
        values = {
            "id": task.id,
            "user_id": task.user_id,
            "conversation_id": task.conversation_id,
            "title": task.title,
            "description": task.description,
            "priority": task.priority.value,
            "status": task.status.value,
            "created_at": task.created_at,
            "completed_at": task.completed_at,
        }
        theirs = select(func.count()).select_from(tasks).where(tasks.c.user_id == task.user_id).scalar_subquery()
        row = select(*(literal(value, tasks.c[name].type) for name, value in values.items()))
        added = insert(tasks).from_select(list(values), row.where(theirs < MAX_TASKS))
        return (await self._connection.execute(added)).rowcount == 1

    async def get(self, user_id: str, task_id: str) -> Task | None:
        query = select(tasks).where(tasks.c.id == task_id, tasks.c.user_id == user_id)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else _task_from(row)

    async def of(self, user_id: str, status: TaskStatus | None, limit: int) -> list[Task]:
        query = select(tasks).where(tasks.c.user_id == user_id)
        if status is not None:
            query = query.where(tasks.c.status == status.value)
        rows = (await self._connection.execute(query.order_by(tasks.c.id.desc()).limit(limit))).all()
        return [_task_from(row) for row in rows]

    async def complete(self, task_id: str, at: datetime) -> None:
        done = {"status": TaskStatus.COMPLETED.value, "completed_at": at}
        await self._connection.execute(update(tasks).where(tasks.c.id == task_id).values(done))


def _task_from(row: AnyRow) -> Task:
    return Task(
        id=row.id,
        user_id=row.user_id,
        conversation_id=row.conversation_id,
        title=row.title,
        description=row.description,
        priority=TaskPriority(row.priority),
        status=TaskStatus(row.status),
        created_at=row.created_at,
        completed_at=row.completed_at,
    )
