"""What the parts of a message are to a model: texts, calls of tools, and an answer to each of these.

Every call that is told is followed by its answer, whatever became of it; endpoints refuse a history in which one is
missing. Pure; which of it fits a prompt is not decided here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from domain.conversations import MessagePart, PartKind, Role
from domain.models import PromptCall, PromptMessage, ToolAnswer
from domain.tool_calls import ToolCall

Said = PromptMessage | ToolAnswer


def said_in(role: Role, parts: Sequence[MessagePart]) -> list[Said]:
    """The whole message; empty when it says nothing to a model."""
    steps, rest = steps_of(role, parts)
    return [*steps, PromptMessage(role, rest)] if rest else steps


def steps_of(role: Role, parts: Sequence[MessagePart]) -> tuple[list[Said], tuple[str, ...]]:
    """The steps with calls and their answers, and the texts after the last of them.

    Reasoning is left out, and calls that models are not told of.
    """
    steps: list[Said] = []
    texts: list[str] = []
    for step, group in groupby((part for part in parts if _is_told(part)), _step):
        if step is None:
            texts += [part.text for part in group]
            continue
        calls = [part.call for part in group if part.call is not None]
        asked = tuple(PromptCall(call.prompt_id, call.name, call.prompt_arguments) for call in calls)
        answers = [ToolAnswer(call.prompt_id, call.prompt_result) for call in calls]
        steps += [PromptMessage(role, tuple(texts), asked), *answers]
        texts = []
    return steps, tuple(texts)


def so_far_in(parts: Sequence[MessagePart], whole: int) -> tuple[list[Said], tuple[str, ...]]:
    """Of a reply that is being made: its whole answers, which are its first `whole` parts, and the texts after them.

    What an answer said after its calls was said with them.
    """
    steps, rest = steps_of(Role.ASSISTANT, parts[:whole])
    last = max((place for place, said in enumerate(steps) if isinstance(said, PromptMessage)), default=None)
    if last is not None and rest:
        asked = steps[last]
        assert isinstance(asked, PromptMessage)
        steps[last] = replace(asked, texts=(*asked.texts, *rest))
    return steps, steps_of(Role.ASSISTANT, parts[whole:])[1]


def weight_of(said: Iterable[Said]) -> tuple[str, int]:
    """What of it costs tokens: all its text as one, and how many messages it is."""
    texts: list[str] = []
    count = 0
    for each in said:
        count += 1
        if isinstance(each, ToolAnswer):
            texts.append(each.text)
            continue
        texts += each.texts
        for call in each.calls:
            texts += (call.name, call.arguments)
    return "".join(texts), count


def calls_in(parts: Iterable[MessagePart]) -> list[tuple[int, ToolCall]]:
    """The calls with the index of their part."""
    return [(part.index, part.call) for part in parts if part.call is not None]


def _is_told(part: MessagePart) -> bool:
    if part.call is not None:
        return part.call.told
    return part.kind is PartKind.TEXT and bool(part.text)


def _step(part: MessagePart) -> int | None:
    return None if part.call is None else part.call.step
