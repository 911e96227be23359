"""Replies for stock clients to watch over connections that are cut: what is sent, where it is cut, what comes out."""

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from tests.gated import GatedModel, GatedReply
from tests.proxy import cutting_proxy
from tests.serving import Serving

SEND = "mutation ($text: String!) { sendMessage(input: {text: $text}) { reply { id } } }"
STORED = "query ($id: ID!) { message(id: $id) { status text } }"
ALPHABET = [*'añ🎉"\\\r\n', "👩", "\u200d", "👧", "\r\n", "\u2028", "e", "\u0301", "\n\ndata: "]

Script = Callable[[str, str], AsyncIterator[Any]]
"""Given the address and the reply, the lines that a watching script prints."""


@dataclass(frozen=True)
class Watched:
    stored: Any
    held: Any
    cuts: int


def small_pieces(chance: random.Random) -> list[str]:
    """Emoji and line ends split over pieces, and what frames are made of."""
    return ["".join(chance.choices(ALPHABET, k=chance.randint(1, 60))) for _ in range(6)]


def large_pieces(chance: random.Random) -> list[str]:
    """200,000 characters."""
    return ["".join(chance.choices(ALPHABET[:7], k=40_000)) for _ in range(5)]


PIECES = {"small": small_pieces, "large": large_pieces}
BUDGETS = {"small": (300, 900, 600, 1_500, 900, 2_000), "large": (300, 40_000, 300_000, 100_000, 800_000)}
"""At most so many bytes pass until each cut."""


@dataclass(frozen=True)
class Talks:
    """A server, and replies on it that come out piece by piece as a script sees them."""

    server: Serving
    model: GatedModel

    async def watched(self, run: Script, size: str, seed: str, *, cut: bool = True) -> Watched:
        """Send a message and let a script watch the reply through a proxy, which cuts its connections."""
        chance = random.Random(f"{size} {seed}")
        reply = self.model.will_answer(f"{size} {seed}", PIECES[size](chance))
        sent = await self.server.ask(SEND, text=f"{size} {seed}")
        reply_id = sent["sendMessage"]["reply"]["id"]
        budgets = [chance.randint(1, most) for most in BUDGETS[size] if cut]
        async with cutting_proxy(self.server.url, budgets) as proxy:
            held = await last_of(run(f"{proxy.url}/graphql", reply_id), reply)
        stored = (await self.server.ask(STORED, id=reply_id))["message"]
        assert stored == {"status": "COMPLETE", "text": reply.text}
        return Watched(stored, {name: held[name] for name in ("status", "text")}, proxy.cuts)


async def last_of(lines: AsyncIterator[Any], reply: GatedReply) -> Any:
    """Let the reply out as the script sees it; the script's last line, which tells what it holds."""
    line: Any = None
    async for line in lines:
        if "seen" in line:
            reply.seen(line["seen"])
    return line
