"""An OpenAI-compatible endpoint that answers differently on every call, so that a second attempt shows."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class Upstream:
    """Streams `tokens` tokens at `rate` per second, each with the number of its call and its own number."""

    def __init__(self, tokens: int = 100, rate: float = 100.0) -> None:
        self.tokens = tokens
        self.rate = rate
        self.calls = 0
        self.closed = asyncio.Event()
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        call = self.calls
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number in range(self.tokens):
                await response.write(frame({"content": f"{call}.{number} "}))
                await asyncio.sleep(1 / self.rate)
            await response.write(frame({}, "stop") + b"data: [DONE]\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            self.closed.set()
            raise
        return response


def frame(delta: dict[str, str], reason: str | None = None) -> bytes:
    body = {"id": "c", "model": "upstream", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@asynccontextmanager
async def upstream(tokens: int = 100, rate: float = 100.0) -> AsyncIterator[Upstream]:
    made = Upstream(tokens, rate)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.answer)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield made
    finally:
        await runner.cleanup()
