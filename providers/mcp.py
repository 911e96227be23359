"""The tools of MCP servers, which run elsewhere and come and go.

Servers are what the operator chose; which of their tools are offered to a model is not decided here.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from providers.mcp_connection import McpConnection, McpServer
from providers.mcp_tools import McpTool

PATIENCE_SECONDS = 10.0


class McpServers:
    """The connections to all servers."""

    def __init__(self, connections: Sequence[McpConnection]) -> None:
        self._connections = connections

    def tools(self) -> list[McpTool]:
        return [tool for connection in self._connections for tool in connection.tools]

    def away(self) -> list[str]:
        """The names of the servers that cannot be reached just now."""
        return [connection.server.name for connection in self._connections if not connection.connected]


@asynccontextmanager
async def open_mcp_servers(servers: Sequence[McpServer]) -> AsyncIterator[McpServers]:
    """Connect to all at once, for some seconds; what cannot be reached by then is tried again until the context ends.

    No program that was started outlives the context, whose end takes seconds at most.
    """
    connections = [McpConnection(server) for server in servers]
    keepers = [asyncio.create_task(c.keep(), name=f"mcp-{c.server.name}") for c in connections]
    try:
        waiting = [asyncio.create_task(connection.tried.wait()) for connection in connections]
        if waiting:
            await asyncio.wait(waiting, timeout=PATIENCE_SECONDS)
        for waiter in waiting:
            waiter.cancel()
        yield McpServers(connections)
    finally:
        await asyncio.gather(*(c.leave(keeper) for c, keeper in zip(connections, keepers, strict=True)))
