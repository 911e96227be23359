"""A real server on a loopback port, in the test's own event loop: real sockets, real SQLite, a model of the test's."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from starlette.types import ASGIApp

from domain.ports import ChatModel
from tertulia.main import create_app
from tertulia.services import Running
from tertulia.serving import uvicorn_config
from tertulia.settings import Settings


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings for tests: everything in `folder`, nothing from the environment or a .env file."""
    values: dict[str, Any] = {
        "database_url": f"sqlite:///{folder}/test.db",
        "cache_folder": Path(tempfile.gettempdir()) / "tertulia-ranks",
        "log_level": "error",
        "shutdown_grace": 0,
    }
    return Settings.model_validate(values | changes)


@dataclass(frozen=True)
class Serving:
    url: str
    http: aiohttp.ClientSession
    running: Running

    async def ask(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> dict[str, Any]:
        """One operation by POST; its `data`. Fails on errors."""
        body = await self.post({"query": query, "variables": variables}, headers)
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    async def post(self, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
        async with self.http.post(f"{self.url}/graphql", json=body, headers=headers) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            return answer


@asynccontextmanager
async def serving(settings: Settings, model: ChatModel | None = None, **overrides: Any) -> AsyncIterator[Serving]:
    if model is not None:
        overrides["model"] = model
    app = create_app(settings, **overrides)
    async with listening(app) as url, aiohttp.ClientSession() as http:
        yield Serving(url, http, app.state.running)


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """Any application behind the server's own uvicorn; the address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn_config(app))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
