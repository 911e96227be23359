"""Several servers on one PostgreSQL and one upstream, each a process of its own, and what the kit asks of them.

The kit looks into the database beside the servers, over a connection that no fault of theirs touches.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.system.faulty_proxy import FaultyProxy, faulty_proxy
from tests.system.postgres_process import PostgresProcess, postgres_process
from tests.system.processes import ROOT, ServerProcess, environment_for

TERMINAL = ("COMPLETE", "STOPPED", "FAILED")
REQUEST_SECONDS = 15.0
DATABASE_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
Row = Mapping[Any, Any]


class Unreachable(Exception):
    """No answer, or one that says to try again."""


@dataclass
class Cluster:
    postgres: PostgresProcess
    upstream: str
    servers: list[ServerProcess]
    http: aiohttp.ClientSession
    database: "asyncpg.Pool[asyncpg.Record]"
    proxies: list[FaultyProxy]
    """In front of the servers, where an experiment asked for them: clients go through these."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of every request of a client."""

    # ── as a client ──

    def address(self, place: int) -> str:
        """Where a client finds a server; counts round."""
        doors = [proxy.url for proxy in self.proxies] or [server.url for server in self.servers]
        return doors[place % len(doors)]

    async def ask(self, place: int, query: str, **variables: object) -> dict[str, Any]:
        """One operation; its data. Raises Unreachable where a client would try again, AssertionError otherwise."""
        body = {"query": query, "variables": variables}
        try:
            async with self.http.post(f"{self.address(place)}/graphql", json=body, headers=self.headers) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Unreachable(type(error).__name__) from error
        codes = [error.get("extensions", {}).get("code") for error in answer.get("errors", ())]
        if "UNAVAILABLE" in codes:
            raise Unreachable("UNAVAILABLE")
        assert not codes, answer
        data: dict[str, Any] = answer["data"]
        return data

    # ── beside the servers ──

    async def rows(self, query: str, *values: object) -> Sequence[Row]:
        """Of the database itself; waits for it while it is away."""
        while True:
            try:
                return [dict(enumerate(row)) | dict(row) for row in await self.database.fetch(query, *values)]
            except DATABASE_LOST as error:
                if isinstance(error, asyncpg.PostgresError) and error.sqlstate[:2] in ("42", "22"):
                    raise
                await asyncio.sleep(0.1)

    async def number(self, query: str, *values: object) -> int:
        return int((await self.rows(query, *values))[0][0])

    async def calls(self) -> list[dict[str, Any]]:
        """What the upstream has seen so far."""
        async with self.http.get(self.upstream.removesuffix("/v1") + "/calls") as response:
            found: list[dict[str, Any]] = await response.json()
        return found

    async def refused(self) -> list[str]:
        """What was wrong with requests that the upstream did not take."""
        async with self.http.get(self.upstream.removesuffix("/v1") + "/refused") as response:
            found: list[str] = await response.json()
        return found

    def owners(self) -> dict[str, ServerProcess]:
        """The processes that run, by the ids under which they own replies."""
        return {server.worker: server for server in self.servers if server.runs and server.worker is not None}

    async def streaming(self, worker: str | None) -> list[tuple[str, int]]:
        """Replies that a process is making, with their attempts."""
        query = "SELECT id, attempt FROM replies WHERE owner = $1 AND status = 'STREAMING'"
        return [(row["id"], row["attempt"]) for row in await self.rows(query, worker)]

    def another(
        self, command: tuple[str, ...] = ("serve",), program: str = "tertulia.cli", **more: str
    ) -> ServerProcess:
        """One more process with the settings of the others, and these; not started yet."""
        first = self.servers[0]
        made = ServerProcess(first.environment | more, first.folder, command, program)
        self.servers.append(made)
        return made

    async def start(self, server: ServerProcess) -> None:
        """Returns when it works, and is known by the id under which it owns replies."""
        await server.start()
        assert server.worker or not server.works, f"it did not say under which id it owns replies: {server.output}"


@asynccontextmanager
async def cluster(
    servers: int = 3,
    *,
    proxied: bool = False,
    command: tuple[str, ...] = ("serve",),
    endpoint: str = "tests.system.upstream",
    **environment: str,
) -> AsyncIterator[Cluster]:
    """`servers` running servers with these settings. With `proxied` clients go through a proxy to each."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tertulia-faults-")))
        postgres = await stack.enter_async_context(postgres_process())
        upstream = await stack.enter_async_context(upstream_process(endpoint))
        settings = environment_for(upstream, DATABASE_URL=postgres.url) | environment
        made = [ServerProcess(settings, folder, command) for _ in range(servers)]
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        )
        database = await asyncpg.create_pool(postgres.url, min_size=0, max_size=4, timeout=5)
        built = Cluster(postgres, upstream, made, await stack.enter_async_context(http), database, [])
        stack.callback(database.terminate)
        stack.push_async_callback(end, built)
        await asyncio.gather(*(built.start(server) for server in made))
        if proxied:
            doors = [faulty_proxy(int(server.url.rpartition(":")[2])) for server in made]
            built.proxies = [await stack.enter_async_context(door) for door in doors]
        yield built


async def end(built: Cluster) -> None:
    """Kill what runs, and show what the servers did not expect: it explains most of what a row finds wrong."""
    for server in built.servers:
        if server.runs:
            await server.kill()
    crashes = sum((server.crashes for server in built.servers), Counter[str]())
    for crash, times in crashes.most_common(3):
        print(f"{times} times in the log of a server:\n{crash[-800:]}", file=sys.stderr)


@asynccontextmanager
async def upstream_process(module: str) -> AsyncIterator[str]:
    """The address of an endpoint whose tokens wait for nothing that the kit does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()
