"""Tools for tests: one that needs approval and notes what it did, and one that does not."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.tools import Tool
from tertulia.tool_functions import tool

LETTER = '{"to": "Ada", "text": "Come at five."}'
"""Arguments that fit `send_letter`."""


class Box:
    """A Toolbox of these tools, which may be taken out again."""

    def __init__(self, *tools: Tool) -> None:
        self._tools = {each.name: each for each in tools}

    def tools(self) -> Sequence[Tool]:
        return [self._tools[name] for name in sorted(self._tools)]

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def lose(self, name: str) -> None:
        del self._tools[name]


@dataclass
class PostOffice:
    """Where letters go, each one only with its user's consent."""

    letters: list[tuple[str, str]] = field(default_factory=list)

    def box(self) -> Box:
        @tool(needs_approval=True, title="Send a letter")
        async def send_letter(to: str, text: str) -> dict[str, int]:
            """Send a letter."""
            self.letters.append((to, text))
            return {"number": len(self.letters)}

        @tool
        async def postage(grams: int) -> int:
            """What a letter of that weight costs, in cents."""
            return 85 if grams <= 20 else 100

        return Box(send_letter, postage)
