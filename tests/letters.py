"""Tools of a post office: sending a letter needs its user's consent, and is noted; asking what it costs does not."""

from dataclasses import dataclass, field

from tertulia.tool_functions import tool
from tests.toolbox import StubToolbox

LETTER = '{"to": "Ada", "text": "Come at five."}'
"""Arguments that fit `send_letter`."""


@dataclass
class PostOffice:
    letters: list[tuple[str, str]] = field(default_factory=list)

    def toolbox(self) -> StubToolbox:
        @tool(needs_approval=True, title="Send a letter")
        async def send_letter(to: str, text: str) -> dict[str, int]:
            """Send a letter."""
            self.letters.append((to, text))
            return {"number": len(self.letters)}

        @tool
        async def postage(grams: int) -> int:
            """What a letter of that weight costs, in cents."""
            return 85 if grams <= 20 else 100

        return StubToolbox(send_letter, postage)
