"""An identity provider's JWK set on a loopback port: what it answers and how often it was asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web


class KeyServer:
    """Answers `body` with `status` and `headers`, once `open` is set. `fetches` counts requests of any path."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.fetches = 0
        self.paths: list[str] = []
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    def offer(self, *keys: dict[str, Any]) -> None:
        self.body = orjson.dumps({"keys": keys})

    async def answer(self, request: web.Request) -> web.Response:
        self.fetches += 1
        self.paths.append(request.path)
        self.asked.set()
        await self.open.wait()
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@asynccontextmanager
async def key_server() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    try:
        yield server
    finally:
        server.open.set()
        await runner.cleanup()
