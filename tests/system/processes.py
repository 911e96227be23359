"""Real server processes: started as an operator starts them, killed as the world kills them."""

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[2]
KEPT_LINES = 1_000
PORTS, SHARES = range(20_000, 32_000), 4
"""Systems take none of these for connections that go out."""


class ServerProcess:
    """`tertulia serve` in a process of its own, on a port of loopback that it keeps when it is started again."""

    def __init__(
        self,
        environment: dict[str, str],
        folder: Path,
        command: tuple[str, ...] = ("serve",),
        program: str = "tertulia.cli",
    ) -> None:
        self.environment = environment
        self.folder = folder
        self._command = [program, *command, *(["--port", str(free_port())] if "serve" in command else [])]
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.url = f"http://127.0.0.1:{self._command[-1]}" if "serve" in command else ""
        self.crashes: Counter[str] = Counter()
        """Exceptions that nobody expected: where they were raised, and how often."""
        self.ready = False
        self.works = "--no-worker" not in command
        self.worker: str | None = None
        """The id under which it owns replies, once it has said it."""

    async def start(self) -> None:
        """Returns when it works; a process that ends instead raises with what it said."""
        self.worker, self.ready = None, False
        self._lines.clear()
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *self._command,
            cwd=self.folder,
            env=environment | self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
        assert self._process.stdout is not None
        ready = "GraphiQL" if self.url else '"started"'
        async for line in self._process.stdout:
            self._heard(line)
            if ready in line.decode(errors="replace"):
                break
        else:
            raise AssertionError(f"the server did not start: {self.output}")
        self._draining = asyncio.create_task(self._drain(self._process.stdout))
        self.ready = True

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def _heard(self, line: bytes) -> None:
        self._lines.append(line.decode(errors="replace"))
        if b'"worker"' in line or b'"exception"' in line:
            with suppress(ValueError):
                said = json.loads(line)
                self.worker = said.get("worker", self.worker)
                self.crashes.update([f"{said['event']}: {said['exception']}"] if "exception" in said else [])

    async def _drain(self, stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            self._heard(line)

    async def kill(self) -> None:
        """SIGKILL: no farewell."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: it holds everything and does nothing, as under a debugger or a sleeping host."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        return await self._process.wait()


def _own_ports() -> Iterator[int]:
    """Those of this process alone, of all that run tests beside each other; each comes again after all the others."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = PORTS[worker % SHARES :: SHARES]
    start = random.randrange(len(mine))
    return itertools.cycle([*mine[start:], *mine[:start]])


_ports = _own_ports()


def free_port() -> int:
    """One that stays free until its server listens, and while it is away."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def environment_for(upstream: str, **more: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "test", "TERTULIA_LOG_FORMAT": "json"} | more


@asynccontextmanager
async def server_process(folder: Path, upstream: str, **environment: str) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(environment_for(upstream, **environment), folder)
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
