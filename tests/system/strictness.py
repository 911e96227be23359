"""What a strict endpoint does not take: histories and offers that some refuse, and after which a chat is bricked."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.system.tool_scripts import progress_of

Message = dict[str, Any]


def refusals(body: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a request, one sentence each; in the words of OpenAI where it has any."""
    messages: list[Message] = body["messages"]
    return [*_offers(body.get("tools")), *_pairs(messages), *_calls(messages), *_contents(messages), *_texts(messages)]


def _offers(tools: Sequence[dict[str, Any]] | None) -> Iterator[str]:
    names = [tool["function"]["name"] for tool in tools or ()]
    if len(set(names)) < len(names):
        yield f"tools offered twice: {names}"
    if tools == []:
        yield "[] is too short - 'tools'"


def _pairs(messages: Sequence[Message]) -> Iterator[str]:
    """Directly behind the calls of a message comes one answer to each of them, and nowhere else is any."""
    place = 0
    while place < len(messages):
        calls = [call["id"] for call in messages[place].get("tool_calls") or ()]
        place += 1
        answers = []
        while place < len(messages) and messages[place]["role"] == "tool":
            answers.append(messages[place]["tool_call_id"])
            place += 1
        if sorted(calls) != sorted(answers):
            yield f"calls {calls} must be followed by tool messages responding to each, not by {answers}"


def _calls(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        calls = message.get("tool_calls")
        if calls == []:
            yield "[] is too short - 'tool_calls'"
        ids = [call["id"] for call in calls or ()]
        if len(set(ids)) < len(ids) or "" in ids:
            yield f"ids that do not tell calls apart: {ids}"
        for call in calls or ():
            if not _is_object(call["function"]["arguments"]):
                yield f"arguments that are no JSON object: {call['function']['arguments']!r}"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _contents(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if not message.get("content") and not message.get("tool_calls"):
            yield f"a {message['role']} message without content"


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    """What the answer under way has said is all there, and nothing of it twice."""
    progress = progress_of(list(messages))
    if progress is not None and list(progress.shown) != list(range(len(progress.shown))):
        yield f"{progress.script.key}: the model's own text has gaps or repetitions: {progress.shown}"
