"""A model that knows the shop of docs/tools.md, behind a real OpenAI-compatible endpoint.

It calls the tool that a question needs if it is offered, and puts the tool's result into its answer.
"""

import json
from typing import Any

from aiohttp import web

from tests.providers.endpoint import DONE, called, entry, finish, said, stream

QUESTIONS = {
    "cost": ("price_of", {"article": "lamp"}),
    "Order": ("order", {"article": "lamp", "count": 20}),
    "Tokyo": ("time_convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
}
"""A word of the question, and the call that it needs."""


async def shopkeeper(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    last = body["messages"][-1]
    if last["role"] == "tool":
        return await stream(said(_answer(last["content"])), finish(), DONE)(request)
    name, arguments = next(call for word, call in QUESTIONS.items() if word in last["content"])
    if name not in _offered(body):
        return await stream(said("I cannot look that up here."), finish(), DONE)(request)
    call = called(entry(0, "call_1", name, json.dumps(arguments)))
    return await stream(call, finish("tool_calls"), DONE)(request)


def _offered(body: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in body.get("tools") or ()}


def _answer(result: str) -> str:
    """The tool's result in words: so a right answer shows that the model was told it."""
    try:
        told = json.loads(result)
    except ValueError:
        return result
    if "euros" in told:
        return f"A {told['article']} costs {told['euros']} euros."
    return f"It is {told['target']['datetime'][11:16]} in Tokyo."
