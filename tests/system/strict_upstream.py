"""An OpenAI-compatible endpoint that answers with calls of tools, and refuses every history that is not whole.

A reply takes three steps and a final text: a text before the calls, two calls in the second step, arguments in pieces.
Where a message asks for no tools it answers as `upstream.py` does.
"""

import asyncio
from typing import Any

import uvloop
from aiohttp import web

from tests.system.strictness import refusals
from tests.system.tool_scripts import STEPS, ToolScript, Wanted, progress_of
from tests.system.upstream import Asked, Call, Upstream, frame, serve, tokens_in, write_tokens

PIECES = 4
"""In which the arguments of a call arrive."""


class StrictUpstream(Upstream):
    async def answer(self, request: web.Request) -> web.StreamResponse:
        if found := refusals(await request.json()):
            self.refused += found
            return web.json_response({"error": {"message": found[0], "code": "invalid_request_error"}}, status=400)
        return await super().answer(request)

    def asked(self, messages: list[dict[str, Any]]) -> Asked:
        progress = progress_of(messages)
        if progress is None:
            return super().asked(messages)
        return Asked(progress.script, tokens_in(messages), len(progress.shown), progress.step)

    async def stream(self, response: web.StreamResponse, call: Call, asked: Asked) -> None:
        script = asked.script
        if not isinstance(script, ToolScript):
            await super().stream(response, call, asked)
            return
        written = await write_tokens(response, call, script, script.tokens_until(asked.step))
        calls = script.steps[asked.step] if asked.step < STEPS else ()
        for index, wanted in enumerate(calls):
            written += await self._write_call(response, script, index, wanted, f"call_{call.number}_{index}")
        await self.finish(response, call, asked, written, "tool_calls" if calls else "stop")

    async def _write_call(
        self, response: web.StreamResponse, script: ToolScript, index: int, wanted: Wanted, call_id: str
    ) -> int:
        begin = {"id": call_id, "type": "function", "function": {"name": wanted.name, "arguments": ""}}
        await response.write(frame({"tool_calls": [{"index": index} | begin]}))
        text = wanted.arguments
        size = -(-len(text) // PIECES)
        for start in range(0, len(text), size):
            await asyncio.sleep(1 / script.rate)
            piece = {"index": index, "function": {"arguments": text[start : start + size]}}
            await response.write(frame({"tool_calls": [piece]}))
        return len(text)


if __name__ == "__main__":
    uvloop.run(serve(StrictUpstream()))
