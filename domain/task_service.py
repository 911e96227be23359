"""What users are shown of their task list. Making and completing tasks is what the built-in tools do."""

from domain.errors import InvalidInput
from domain.storage import Storage
from domain.tasks import MAX_TASKS, Task, TaskStatus


class TaskService:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def of(self, user_id: str, status: TaskStatus | None, limit: int) -> list[Task]:
        """The newest first. Raises InvalidInput for a limit that no list has."""
        if not 0 < limit <= MAX_TASKS:
            raise InvalidInput(f"`first` must be between 1 and {MAX_TASKS}.", "first")
        async with self._storage.read() as work:
            return await work.tasks.of(user_id, status, limit)
