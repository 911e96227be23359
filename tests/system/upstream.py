"""An OpenAI-compatible endpoint that answers differently on every call, so that a second attempt shows.

The last message of the user says how to answer: `key tokens=300 rate=20 first=0.5 pad=0`. Every token carries the
number of its call, its own number and its time of departure: `7.42@1234.5678 `. When the request ends with the
beginning of an answer, the tokens are numbered on from there: an answer is whole when it holds each number once.

By itself (`python -m tests.system.upstream`) it is a process whose `/calls` tells what it has seen, and `/refused`
what it did not take.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from aiohttp import web

from tests.system.tokens import Script, numbers

CHARACTERS = 4
"""Of a token, by this endpoint's account."""


@dataclass(slots=True)
class Call:
    """One request; times are of the monotonic clock, which all processes of a machine share."""

    number: int
    key: str
    began: float
    goes_on_from: int = 0
    sent: int = 0
    first_token: float | None = None
    ended: float | None = None
    usage: int = 0
    """Tokens in and out, as told at the end: one for every four characters."""
    whole: bool = False
    """Ended by itself; otherwise whoever asked has closed the connection."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: its script, its own weight in tokens, and how much of the answer is there already."""

    script: Script
    tokens: int
    goes_on_from: int = 0
    step: int = 0
    """For answers that call tools: how many of the steps are done."""


class Upstream:
    """Streams `tokens` tokens at `rate` per second where a message does not say otherwise."""

    def __init__(self, tokens: int = 100, rate: float = 100.0) -> None:
        self._default = Script("", tokens, rate)
        self.calls: list[Call] = []
        self.refused: list[str] = []
        """What was wrong with requests that got no answer."""
        self.closed = asyncio.Event()
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        messages = (await request.json())["messages"]
        asked = self.asked(messages)
        call = Call(len(self.calls) + 1, asked.script.key, time.monotonic(), asked.goes_on_from)
        self.calls.append(call)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self.stream(response, call, asked)
            call.whole = True
        except (ConnectionResetError, asyncio.CancelledError):
            self.closed.set()
            raise
        finally:
            call.ended = time.monotonic()
        return response

    async def stream(self, response: web.StreamResponse, call: Call, asked: Asked) -> None:
        answered = await write_tokens(response, call, asked.script, asked.script.tokens)
        await self.finish(response, call, asked, answered, "stop")

    async def finish(
        self, response: web.StreamResponse, call: Call, asked: Asked, characters: int, reason: str
    ) -> None:
        answered = characters // CHARACTERS
        call.usage = asked.tokens + answered
        usage = {"prompt_tokens": asked.tokens, "completion_tokens": answered}
        await response.write(frame({}, reason, usage) + b"data: [DONE]\n\n")

    def asked(self, messages: list[dict[str, Any]]) -> Asked:
        """How to answer, and what of the answer was given before."""
        shown, weight = "", tokens_in(messages)
        for message in reversed(messages):
            if message["role"] == "assistant":
                shown = str(message["content"])
            elif message["role"] == "user" and (script := Script.read(str(message["content"]))):
                return Asked(script, weight, len(numbers(shown)))
        return Asked(self._default, weight)


async def write_tokens(response: web.StreamResponse, call: Call, script: Script, until: int) -> int:
    """Send the tokens from where the call goes on to the one before `until`, each in its time; their characters."""
    due, written = time.monotonic() + script.first, 0
    for number in range(call.goes_on_from, until):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        call.first_token = call.first_token or now
        token = f"{call.number}.{number}@{now:.4f}{'.' * script.pad} "
        await response.write(frame({"content": token}))
        call.sent += 1
        written += len(token)
        due += 1 / script.rate
    return written


def tokens_in(messages: list[dict[str, Any]]) -> int:
    return sum(len(str(message.get("content"))) for message in messages) // CHARACTERS


def frame(delta: dict[str, Any], reason: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "c", "model": "upstream", "choices": [choice]} | ({} if usage is None else {"usage": usage})
    return b"data: " + json.dumps(body).encode() + b"\n\n"


AnyUpstream = TypeVar("AnyUpstream", bound=Upstream)


@asynccontextmanager
async def upstream(tokens: int = 100, rate: float = 100.0) -> AsyncIterator[Upstream]:
    async with listening(Upstream(tokens, rate)) as made:
        yield made


@asynccontextmanager
async def listening(made: AnyUpstream) -> AsyncIterator[AnyUpstream]:
    async def calls(request: web.Request) -> web.Response:
        return web.json_response([asdict(call) for call in made.calls[int(request.query.get("after", 0)) :]])

    async def refused(_request: web.Request) -> web.Response:
        return web.json_response(made.refused)

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", made.answer)
    app.router.add_get("/calls", calls)
    app.router.add_get("/refused", refused)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    made.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield made
    finally:
        await runner.cleanup()


async def serve(made: Upstream) -> None:
    async with listening(made):
        print(made.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(Upstream()))
