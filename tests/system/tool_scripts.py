"""Messages that are answered with calls of tools, in three steps and a final text; pure functions.

What a step asks for follows from the message alone, and how many steps are done from the request's own history: so an
endpoint that reads it needs no memory, and a reply comes to the same end however often it was broken off.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Self

from tests.system.tokens import Script, numbers

TOOLS_SCRIPT = re.compile(r"(\S+) tokens=(\d+) rate=([\d.]+) tool=(\w+)")
STEPS = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that the endpoint makes; its text is an argument and found in its effect again."""

    name: str
    text: str

    @property
    def arguments(self) -> str:
        return json.dumps({"text": self.text})


@dataclass(frozen=True, slots=True)
class ToolScript(Script):
    """`tokens` are those of all texts together, a quarter before each step and at the end.

    `tool` is what is called beside `note` in the second step.
    """

    tool: str = "book"

    @classmethod
    def read(cls, text: str) -> Self | None:
        found = TOOLS_SCRIPT.fullmatch(text)
        return None if found is None else cls(found[1], int(found[2]), float(found[3]), tool=found[4])

    @property
    def text(self) -> str:
        return f"{self.key} tokens={self.tokens} rate={self.rate:g} tool={self.tool}"

    @property
    def steps(self) -> tuple[tuple[Wanted, ...], ...]:
        named = (("look",), (self.tool, "note"), ("note",))
        return tuple(
            tuple(Wanted(name, f"{self.key}/{step}/{name}") for name in names) for step, names in enumerate(named)
        )

    @property
    def wanted(self) -> list[Wanted]:
        """All calls of a reply that comes to its end."""
        return [call for step in self.steps for call in step]

    def tokens_until(self, step: int) -> int:
        """How many tokens are written when the text of this step, from 0, is whole."""
        return self.tokens * (step + 1) // (STEPS + 1)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer has come: its steps that are done, and its tokens in the prompt."""

    script: ToolScript
    step: int
    shown: tuple[int, ...]


def progress_of(messages: list[dict[str, Any]]) -> Progress | None:
    """None where the last message that says how to answer does not ask for tools."""
    shown: list[int] = []
    step = 0
    for message in reversed(messages):
        content = str(message.get("content") or "")
        if message["role"] == "assistant":
            shown = numbers(content) + shown
            step += bool(message.get("tool_calls"))
        elif message["role"] == "user":
            if (script := ToolScript.read(content)) is not None:
                return Progress(script, step, tuple(shown))
            if Script.read(content) is not None:
                return None
    return None
