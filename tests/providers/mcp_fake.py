"""An MCP server that has the fault that is asked for, over its standard streams or a listening socket.

`python mcp_fake.py KIND` or `python mcp_fake.py KIND DESCRIPTOR`. Knows the library only, so that it can run anywhere.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import uvicorn
from mcp.server import MCPServer, Server
from mcp.server.mcpserver import Context
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

NOTHING = {"type": "object", "properties": {}}
BROKEN_SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "nonsense"}}},
    {"type": "object", "description": "x" * 200_000},
]


def faulty() -> MCPServer:
    server = MCPServer("faulty")

    @server.tool(title="Add up", annotations=ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=True))
    def environment() -> str:
        """The names of all variables."""
        return " ".join(sorted(os.environ))

    @server.tool()
    def fail(length: int) -> CallToolResult:
        """Say that it failed."""
        return CallToolResult(content=[TextContent(text="no luck " + "x" * length)], is_error=True)

    @server.tool()
    def show() -> CallToolResult:
        """Text and a picture."""
        picture = ImageContent(data="AAAA", mime_type="image/png")
        return CallToolResult(content=[TextContent(text="Look:"), picture])

    @server.tool()
    def process() -> str:
        """The id of its process."""
        return str(os.getpid())

    @server.tool()
    def big() -> CallToolResult:
        """Ten megabytes."""
        return CallToolResult(content=[TextContent(text="x" * 10_000_000)])

    @server.tool()
    async def hang() -> str:
        """Never answer."""
        await anyio.sleep_forever()
        return ""

    @server.tool()
    async def die() -> str:
        """End in mid-call."""
        os._exit(3)

    @server.tool()
    async def learn(context: Context) -> str:
        """Have one more tool."""
        server.add_tool(fresh)
        await context.notify_tools_changed()
        return "done"

    return server


def fresh() -> str:
    """A tool that came later."""
    return "fresh"


def deaf() -> MCPServer:
    """It ends neither when its input does nor when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return faulty()


def listing(page: Callable[[str | None], ListToolsResult]) -> Server[Any]:
    async def list_tools(_: object, params: PaginatedRequestParams | None) -> ListToolsResult:
        return page(params.cursor if params else None)

    async def call_tool(_: object, params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[TextContent(text=params.name)])

    return Server("listing", on_list_tools=list_tools, on_call_tool=call_tool)


def many() -> Server[Any]:
    """Five hundred tools on ten pages."""

    def page(cursor: str | None) -> ListToolsResult:
        first = int(cursor or 0)
        tools = [Tool(name=f"tool {number}", input_schema=NOTHING) for number in range(first, first + 50)]
        return ListToolsResult(tools=tools, next_cursor=str(first + 50) if first < 450 else None)

    return listing(page)


def endless() -> Server[Any]:
    """Always one more page of tools."""
    numbers = count()

    def page(_: str | None) -> ListToolsResult:
        tools = [Tool(name=f"tool{next(numbers)}", input_schema=NOTHING) for _ in range(50)]
        return ListToolsResult(tools=tools, next_cursor="more")

    return listing(page)


def hollow() -> Server[Any]:
    """Always one more page of nothing."""
    return listing(lambda _: ListToolsResult(tools=[], next_cursor="more"))


def broken() -> Server[Any]:
    """Tools that cannot be offered among one that can; and one whose schema is elsewhere."""
    tools = [Tool(name=f"broken{number}", input_schema=schema) for number, schema in enumerate(BROKEN_SCHEMAS)]
    elsewhere = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    twice = [Tool(name=name, input_schema=NOTHING) for name in ("fine", "a b", "a_b")]
    return listing(lambda _: ListToolsResult(tools=[*tools, Tool(name="elsewhere", input_schema=elsewhere), *twice]))


KINDS: dict[str, Callable[[], MCPServer | Server[Any]]] = {
    made.__name__: made for made in (faulty, deaf, many, endless, hollow, broken)
}


async def over_standard_streams(server: MCPServer | Server[Any]) -> None:
    if isinstance(server, MCPServer):
        await server.run_stdio_async()
    else:
        async with stdio_server() as (messages, outbox):
            await server.run(messages, outbox, server.create_initialization_options())


def over_http(server: MCPServer | Server[Any], descriptor: int) -> None:
    config = uvicorn.Config(server.streamable_http_app(), log_level="critical")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    logging.disable()
    if len(sys.argv) > 2:
        over_http(KINDS[sys.argv[1]](), int(sys.argv[2]))
    else:
        anyio.run(over_standard_streams, KINDS[sys.argv[1]]())
        if sys.argv[1] == "deaf":
            anyio.run(anyio.sleep_forever)
