"""The task list of each user: what the built-in tools work on."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class TaskPriority(StrEnum):
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class TaskStatus(StrEnum):
    PENDING = "PENDING"
    COMPLETED = "COMPLETED"


MAX_TASKS = 1_000
"""Of one user, completed ones too."""
MAX_TITLE = 200
MAX_DESCRIPTION = 4_000


@dataclass(frozen=True, slots=True)
class Task:
    """`conversation_id` is where it was made; None when that is gone."""

    id: str
    user_id: str
    conversation_id: str | None
    title: str
    description: str
    priority: TaskPriority
    status: TaskStatus
    created_at: datetime
    completed_at: datetime | None = None
