"""The connection to one MCP server: kept by one task, made again when it breaks, used by any.

Knows nothing of what its tools are used for.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from math import inf
from typing import Any

import anyio
import structlog
from mcp import Client, MCPError
from mcp.client.subscriptions import SubscriptionLost
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    ToolListChangedNotification,
)
from mcp_types import Tool as ListedTool
from pydantic import ValidationError

from domain.tools import ToolError, ToolUnreachable
from providers.mcp_tools import Approval, McpTool, UnusableTool, tool_of
from providers.mcp_transport import address, program

ATTEMPT_SECONDS = 30.0
"""For connecting and listing; programs that are fetched before they start need long."""
FAREWELL_SECONDS = 3.0
KILL_SECONDS = 8.0
"""The library ends a program within 6.5."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
RELIST_SECONDS = 1.0
MAX_LISTED = 1_000
MAX_PAGES = 100
ABOUT_US = Implementation(name="tertulia", version="1")
log = structlog.get_logger("tertulia")


@dataclass(frozen=True, slots=True)
class McpServer:
    """A program with its further variables, or an address with a token. `tools`: only these, by the server's names."""

    name: str
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    url: str = field(default="", repr=False)
    token: str | None = field(default=None, repr=False)
    tools: tuple[str, ...] | None = None
    needs_approval: Approval = None

    def transport(self, ended: Callable[[], None]) -> AbstractAsyncContextManager[Any]:
        """`ended` is called when the server will send nothing more."""
        return program(self.command, self.env, ended) if self.command else address(self.url, self.token, ended)


class McpConnection:
    """`tools` are those last listed, also while the server is away; `tried` is set once it is known how it is."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.tools: tuple[McpTool, ...] = ()
        self.tried = asyncio.Event()
        self._client: Client | None = None
        self._wake, self._left = asyncio.Event(), asyncio.Event()
        self._gone = False
        self._next_pause = FIRST_PAUSE
        self._scope = anyio.CancelScope()

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Raises ToolError, or ToolUnreachable when the server is away or goes away."""
        if (client := self._client) is None:
            raise ToolUnreachable(f"The MCP server {self.server.name} cannot be reached.")
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        try:
            return await client.session.send_request(request, CallToolResult)
        except MCPError as error:
            self._wake.set()  # over HTTP nothing else shows that a session has ended
            if error.code in (CONNECTION_CLOSED, INVALID_REQUEST):
                raise ToolUnreachable(f"The MCP server {self.server.name} went away during the call.") from error
            raise ToolError(f"The MCP server {self.server.name} refused the call: {error.message[:500]}") from error
        except ValidationError as error:
            raise ToolError(f"The MCP server {self.server.name} gave no result that can be read.") from error

    async def keep(self) -> None:
        """Connect, and again whenever that breaks, until `leave` ends it."""
        with self._scope:
            while not self._left.is_set():
                try:
                    await self._serve()
                except Exception as error:
                    pause, why = self._next_pause, _reason(error)
                    log.warning("an MCP server is away", server=self.server.name, reason=why, again_in=pause)
                self._client = None
                self.tried.set()
                await self._pause(self._next_pause)
                self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)

    async def leave(self, keeper: asyncio.Task[None]) -> None:
        """End the task that keeps it, in bounded time: it says farewell, then it is cut off."""
        self._left.set()
        self._wake.set()
        await asyncio.wait([keeper], timeout=FAREWELL_SECONDS)
        self._scope.cancel()
        await asyncio.wait([keeper], timeout=KILL_SECONDS)
        keeper.cancel()

    async def _serve(self) -> None:
        """Returns when it is left. Raises whatever broke the connection."""
        self._gone = False
        self._wake.clear()
        transport = self.server.transport(self._ended)
        with anyio.fail_after(ATTEMPT_SECONDS) as limit:
            async with Client(transport, client_info=ABOUT_US, message_handler=self._heard, cache=None) as client:
                await self._list(client)
                limit.deadline, self._next_pause = inf, FIRST_PAUSE
                self._client = client
                self.tried.set()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen, client)
                    await self._look_after(client)
                    tasks.cancel_scope.cancel()

    async def _look_after(self, client: Client) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._left.is_set():
                return
            if self._gone:
                raise ConnectionError("it ended")
            with anyio.fail_after(ATTEMPT_SECONDS):
                await self._list(client)
            await self._pause(RELIST_SECONDS)

    async def _listen(self, client: Client) -> None:
        """Servers of the revision of 2026 tell of changes only whom asked; earlier ones tell everybody."""
        offered = client.server_capabilities.tools
        while offered is not None and offered.list_changed:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._wake.set()  # what changed since they were listed was not told
                    async for _ in changes:
                        self._wake.set()
            except SubscriptionLost:
                pass
            except (RuntimeError, MCPError):  # of an earlier revision, or it refuses
                return
            self._wake.set()  # what changed meanwhile was not told
            await self._pause(RELIST_SECONDS)

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._wake.set()

    def _ended(self) -> None:
        self._gone, self._client = True, None
        self._wake.set()

    async def _pause(self, seconds: float) -> None:
        """Shorter when it is left."""
        with anyio.move_on_after(seconds):
            await self._left.wait()

    async def _list(self, client: Client) -> None:
        listed: list[ListedTool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            listed += page.tools
            cursor = page.next_cursor
            if cursor is None or len(listed) > MAX_LISTED:
                break
        if cursor is not None or len(listed) > MAX_LISTED:
            log.warning("an MCP server lists too many tools", server=self.server.name, taken=len(listed[:MAX_LISTED]))
        self.tools = self._usable(listed[:MAX_LISTED])

    def _usable(self, listed: list[ListedTool]) -> tuple[McpTool, ...]:
        found: dict[str, McpTool] = {}
        wanted = self.server.tools
        for tool in listed:
            try:
                if wanted is None or tool.name in wanted:
                    made = tool_of(self.server.name, tool, self.server.needs_approval, self.call)
                    if found.setdefault(made.name, made) is not made:
                        raise UnusableTool("another has its name")
            except UnusableTool as error:
                log.warning("a tool is left out", server=self.server.name, tool=tool.name[:64], reason=str(error))
        return tuple(found.values())


def _reason(error: BaseException) -> str:
    """The first cause, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}".rstrip(": ")
