"""MCP servers for tests: `mcp_fake.py` over either transport, and what is left of a program."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.tools import Tool
from providers.mcp import McpServers
from providers.mcp_connection import McpServer
from tests.patience import PATIENCE_SECONDS
from tests.system.processes import free_port

FAKE = Path(__file__).with_name("mcp_fake.py")


def program(kind: str, **fields: object) -> McpServer:
    """A server over standard streams, in a process that it gets when it is connected to."""
    return McpServer("fake", command=(sys.executable, str(FAKE), kind), **fields)  # type: ignore[arg-type]


@dataclass
class Site:
    """A server over HTTP in a process of its own, on a port that it has again when it is started again."""

    kind: str
    port: int = field(default_factory=free_port)
    _process: asyncio.subprocess.Process | None = field(default=None)

    @property
    def server(self) -> McpServer:
        return McpServer("fake", url=f"http://127.0.0.1:{self.port}/mcp")

    async def start(self) -> None:
        """It listens already when this returns, and answers as soon as it can. One that dies is gone before that."""
        if self._process is not None:
            await self._process.wait()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen()
            number = listener.fileno()
            command = (sys.executable, str(FAKE), self.kind, str(number))
            self._process = await asyncio.create_subprocess_exec(*command, pass_fds=(number,))

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def site(kind: str) -> AsyncIterator[Site]:
    served = Site(kind)
    await served.start()
    try:
        yield served
    finally:
        await served.kill()


def tool(servers: McpServers, name: str) -> Tool:
    found: dict[str, Tool] = {made.name: made for made in servers.tools()}
    return found[f"fake_{name}"]


async def call(servers: McpServers, name: str, **arguments: object) -> object:
    nobody: Any = None  # servers elsewhere are not told for whom a tool acts
    return await tool(servers, name).run(nobody, arguments)


async def becomes(condition: Callable[[], bool]) -> None:
    """What a keeper does is not told to anybody, so it is looked for."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def runs(process: object) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(int(str(process)), 0)
    except ProcessLookupError:
        return False
    return True
