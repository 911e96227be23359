"""Tools: what a model may be offered to call, and what their functions are given and may raise.

Where a tool comes from (a function, a plugin, an MCP server) is not known here. Running the calls of a reply is in
`tool_running.py`, the values of a call in `tool_calls.py`.
"""

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from domain.accounts import User
from domain.conversations import Conversation
from domain.storage import UnitOfWork

TIMEOUT_SECONDS = 30.0
MAX_TOOLS = 128
"""Of one request: OpenAI's limit."""
NAME = r"[a-zA-Z0-9_-]{1,64}"
"""What OpenAI allows as a function's name."""
MAX_DESCRIPTION = 1_024
"""Characters that OpenAI allows as a function's description."""


class ToolSource(StrEnum):
    BUILT_IN = "BUILT_IN"
    PLUGIN = "PLUGIN"
    MCP = "MCP"


class ToolError(Exception):
    """Raised by a tool that cannot do what it was asked for; the model is told the message, and may try otherwise."""


class ToolUnreachable(Exception):
    """Raised for a tool whose server cannot be reached, or went away during the call."""


class ToolContext(Protocol):
    """What a tool's function is given beside its arguments."""

    @property
    def user(self) -> User:
        """For whom it acts."""
        ...

    @property
    def conversation(self) -> Conversation: ...

    @property
    def call_id(self) -> str:
        """The same when an idempotent tool is run again after a crash: other systems may take it as a key."""
        ...

    @property
    def now(self) -> datetime: ...

    def new_id(self, prefix: str) -> str: ...

    async def work(self) -> UnitOfWork:
        """The unit of work in which the result is stored too: all of it is committed together, or nothing.

        It is opened by the first call; from then on the tool has 5 seconds, and should wait for the database only.
        """
        ...


class Tool(Protocol):
    """Anything a model can be offered. The attributes never change."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def description(self) -> str:
        """For the model."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """A JSON Schema of type "object"."""
        ...

    @property
    def source(self) -> ToolSource: ...
    @property
    def needs_approval(self) -> bool:
        """Each call waits for the user's consent."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds that a call may take."""
        ...

    @property
    def idempotent(self) -> bool:
        """A call may be repeated when it is not known whether it took effect."""
        ...

    def check(self, arguments: Mapping[str, object]) -> str | None:
        """What is wrong with the arguments, in words for a model; None when they fit. Never raises."""
        ...

    def run(self, context: ToolContext, arguments: Mapping[str, object]) -> Awaitable[object]:
        """The result: any JSON value. Raises ToolError, ToolUnreachable, or anything else when it is broken."""
        ...


class Toolbox(Protocol):
    """The tools of this server; those of an MCP server come and go with it."""

    def tools(self) -> Sequence[Tool]:
        """In the order of their names."""
        ...

    def get(self, name: str) -> Tool | None: ...
