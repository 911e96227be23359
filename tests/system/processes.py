"""Real server processes: started as an operator starts them, killed as the world kills them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """`tertulia serve` in a process of its own, on a free port of loopback."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""
        self.output = ""

    async def start(self) -> None:
        """Returns when it listens; a process that ends instead raises with what it said."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tertulia.cli",
            "serve",
            "--port",
            "0",
            cwd=self._folder,
            env=self._environment | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        self.output = ""
        async for line in self._process.stdout:
            self.output += line.decode()
            if "GraphiQL" in self.output and "http://" in self.output:
                self.url = "http://" + self.output.split("http://")[1].split("/")[0]
                break
        else:
            raise AssertionError(f"the server did not start: {self.output}")
        self._draining = asyncio.create_task(self._drain(self._process.stdout))

    async def _drain(self, stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            self.output += line.decode(errors="replace")

    async def kill(self) -> None:
        """SIGKILL: no farewell."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        return await self._process.wait()


@asynccontextmanager
async def server_process(folder: Path, upstream: str, **environment: str) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(
        {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "test", "TERTULIA_LOG_FORMAT": "json"} | environment, folder
    )
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


async def graphql(url: str, query: str, **variables: object) -> dict[str, object]:
    """One operation over a connection of its own; its data."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/graphql", json={"query": query, "variables": variables}) as response,
    ):
        body = await response.json(content_type=None)
    assert "errors" not in body, body
    data: dict[str, object] = body["data"]
    return data
