"""A model's endpoint that tells everything it knows: its errors quote the key and the prompt, as some really do.

A word in brackets in the prompt says how to answer: `[401]`, `[500]`, `[302]`, `[frame]`, `[garbage]`, `[cut]`; without
one the answer is whole. `[slow]` takes its time.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

HOW = re.compile(r"\[(\w+)\]")
WAYS = ("400", "401", "403", "404", "422", "429", "500", "503", "302", "frame", "context", "garbage", "cut")


class Quoting:
    def __init__(self, reply: str) -> None:
        self._reply = reply
        self.base_url = ""
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        said = [str(message["content"]) for message in json.loads(body)["messages"] if message["role"] == "user"]
        found = HOW.findall(said[-1]) if said else []
        how = found[-1] if found else "whole"
        self.asked.append(how)
        everything = f"{request.headers.get('authorization')} said {body}"
        if how.isdigit():
            return _refusal(int(how), everything)
        if how == "context":
            return web.json_response({"error": {"code": "context_length_exceeded", "message": everything}}, status=400)
        return await self._stream(request, how, everything)

    async def _stream(self, request: web.Request, how: str, everything: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": "req-1"})
        await response.prepare(request)
        for part in (self._reply[:12], self._reply[12:], " "):
            await response.write(_event({"choices": [{"index": 0, "delta": {"content": part}}]}))
            await asyncio.sleep(2 if how == "slow" else 0)
        match how:
            case "frame":
                await response.write(_event({"error": {"code": "server_error", "message": everything}}))
            case "garbage":
                await response.write(f"data: {{{everything}\n\n".encode())
            case "cut":
                assert request.transport is not None
                request.transport.abort()
                return response
        await response.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(frame: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "quoting"} | frame).encode() + b"\n\n"


def _refusal(status: int, everything: str) -> web.Response:
    headers = {"location": f"/v1/elsewhere?said={everything[:200]!r}"} if status == 302 else {"retry-after": "0"}
    headers["x-error"] = everything.splitlines()[0][:500]
    return web.json_response({"error": {"message": everything, "code": "quoting"}}, status=status, headers=headers)


@asynccontextmanager
async def quoting(reply: str) -> AsyncIterator[Quoting]:
    made = Quoting(reply)
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield made
    finally:
        await runner.cleanup()
