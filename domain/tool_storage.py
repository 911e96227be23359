"""The Protocols of storage for tools: the calls of replies, what users allowed for good, and tasks.

Each method's contract is in its docstring; implemented in `persistence/`. The unit of work they belong to is in
`storage.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.replies import Lease, ReplyStatus
from domain.tasks import Task, TaskStatus
from domain.tool_calls import ToolCall


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A call, where it belongs, and how its reply stands. `index` is its place among the reply's parts."""

    call: ToolCall
    index: int
    reply_id: str
    conversation_id: str
    user_id: str
    reply_status: ReplyStatus


class ToolCalls(Protocol):
    """The calls of replies from the end of the answer that made them on: what the reply's log is told afterwards."""

    async def add(self, lease: Lease, calls: Sequence[tuple[int, ToolCall]]) -> bool:
        """Store calls with their part's index, over what earlier attempts stored of them. False for a lost lease.

        What this attempt stored of them before stays: it may have been decided on since.

        Then nothing was stored, and the unit must not be committed. Otherwise its heartbeat is locked until the end of
        the unit, so that no takeover commits beside it.
        """
        ...

    async def finish(self, lease: Lease, call: ToolCall) -> bool:
        """Store how a RUNNING call ended. False as for `add`, and when it does not run in this attempt."""
        ...

    async def of(self, reply_id: str) -> dict[str, ToolCall]:
        """Those of a reply that are stored, by id."""
        ...

    async def get(self, user_id: str, call_id: str) -> StoredCall | None:
        """The user's call; its conversation and its reply are held until the end of the unit."""
        ...

    async def expired(self, limit: int) -> list[StoredCall]:
        """Calls whose approval has expired by the database's clock, some of them, held as by `get`.

        Those that others hold are left out.
        """
        ...

    async def decide(self, stored: StoredCall, call: ToolCall) -> None:
        """Store what was decided of a call that awaits approval and is held.

        Where its reply awaits approval this is told in the log, and when it was the last such call of the reply, the
        reply is queued again.
        """
        ...

    async def allowed(self, conversation_id: str) -> frozenset[str]:
        """Names of the tools that need no approval any more in a conversation."""
        ...

    async def allow(self, conversation_id: str, tool: str) -> None:
        """From now on the tool needs no approval in the conversation."""
        ...


class Tasks(Protocol):
    async def add(self, task: Task) -> bool:
        """False when the user has MAX_TASKS already; then nothing was stored."""
        ...

    async def get(self, user_id: str, task_id: str) -> Task | None: ...

    async def of(self, user_id: str, status: TaskStatus | None, limit: int) -> list[Task]:
        """The newest first."""
        ...

    async def complete(self, task_id: str, at: datetime) -> None: ...
