"""A real OpenAI-compatible endpoint on loopback that does as it is told: streams, stalls, cuts, errors, nonsense.

Each request gets the next scripted answer. Knows HTTP and the frames of a stream, and nothing of who asks.
"""

import asyncio
import json
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from aiohttp import web

COMPLETION_ID = "chatcmpl-1"
RESPONSE_MODEL = "test-model-2026"
REQUEST_ID = "req-1"

DONE = b"data: [DONE]\n\n"

WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""What zlib calls the codings of HTTP."""


class Cut:
    """Step: the connection is closed in the middle of the body."""


class Stall:
    """Step: nothing more comes, until the client goes away."""


Step = bytes | asyncio.Event | Cut | Stall
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request; those that came over the same connection have the same `connection`."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    connection: object


class ScriptedEndpoint:
    """`requests` are those received and `asked` is set by the first; `client_left` is set when a client closed before
    it had the whole answer.
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[Received] = []
        self.asked = asyncio.Event()
        self.client_left = asyncio.Event()
        self._replies: deque[Reply] = deque()

    def replies(self, *replies: Reply) -> None:
        """Script what the next requests get, in this order."""
        self._replies.extend(replies)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        connection = request.transport.get_extra_info("peername")
        self.requests.append(Received(await request.json(), dict(request.headers), connection))
        self.asked.set()
        if not self._replies:
            return web.Response(status=418, text="no reply is scripted")
        try:
            return await self._replies.popleft()(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.client_left.set()
            raise


@asynccontextmanager
async def scripted_endpoint(tls: SSLContext | None = None) -> AsyncIterator[ScriptedEndpoint]:
    endpoint = ScriptedEndpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    endpoint.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


def stream(*steps: Step, leave: bool = False) -> Reply:
    """A successful answer whose body is made of these steps; with `leave` its connection is closed without notice."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": REQUEST_ID})
        await response.prepare(request)
        for step in steps:
            await _take(step, request, response)
        await response.write_eof()
        if leave and request.transport is not None:
            request.transport.close()
        return response

    return reply


async def _take(step: Step, request: web.Request, response: web.StreamResponse) -> None:
    if isinstance(step, bytes):
        await response.write(step)
    elif isinstance(step, Cut):
        assert request.transport is not None
        request.transport.close()
    else:
        await (step.wait() if isinstance(step, asyncio.Event) else asyncio.Event().wait())


def compressed(coding: str, *steps: Step) -> Reply:
    """An answer of these steps, each of which can be read as soon as it has arrived."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "content-encoding": coding})
        await response.prepare(request)
        squeezer = zlib.compressobj(wbits=WINDOW_BITS[coding])
        for step in steps:
            whole = squeezer.compress(step) + squeezer.flush(zlib.Z_SYNC_FLUSH) if isinstance(step, bytes) else step
            await _take(whole, request, response)
        await response.write(squeezer.flush())
        return response

    return reply


async def silence(_request: web.Request) -> web.StreamResponse:
    """No answer at all, not even a status, until the client goes away."""
    await asyncio.Event().wait()
    raise AssertionError


def status(code: int, body: object = "", headers: Mapping[str, str] | None = None) -> Reply:
    """An answer with this status; a body that is not a string goes as JSON."""

    async def reply(_request: web.Request) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(status=code, text=body, headers=headers)
        return web.json_response(body, status=code, headers=headers)

    return reply


def event(frame: object) -> bytes:
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


def delta(reason: str | None = None, **fields: object) -> bytes:
    """The event of one frame with such a delta, and with a finish reason if one is given."""
    choice = {"index": 0, "delta": fields, "finish_reason": reason}
    return event({"id": COMPLETION_ID, "model": RESPONSE_MODEL, "choices": [choice], "usage": None})


def said(*texts: str) -> bytes:
    return b"".join(delta(content=text) for text in texts)


def finish(reason: str = "stop") -> bytes:
    return delta(reason)


def used(**usage: object) -> bytes:
    """The event that tells the usage, after the finish reason and without a choice."""
    return event({"id": COMPLETION_ID, "model": RESPONSE_MODEL, "choices": [], "usage": usage})


WHOLE = said("Hello", " there") + finish() + DONE


def called(*entries: object) -> bytes:
    """The event of one frame with these entries in `tool_calls`."""
    return delta(tool_calls=list(entries))


def entry(index: Any = None, id: Any = None, name: Any = None, arguments: Any = None, **more: object) -> dict[str, Any]:
    """One entry of `tool_calls`; what is None is missing."""
    function = {"name": name, "arguments": arguments}
    fields = {"index": index, "id": id, "function": {k: v for k, v in function.items() if v is not None}, **more}
    return {k: v for k, v in fields.items() if v is not None}
