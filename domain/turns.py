"""Turns: whoever reads what a model sends reads on just before the next commit, and then all that has arrived.

To read each piece when it comes costs several times as much, and nobody sees it sooner: it is shown once it is
committed. Nothing here knows who reads or commits.
"""

import asyncio
from math import ceil


class Turns:
    """`wanted` is set while somebody waits; whoever commits clears it."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self) -> asyncio.Future[None]:
        """Await it until the next commit is near."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.wanted.set()
        return turn

    async def give(self, share: float = 1.0) -> None:
        """Let those go on who have waited longest, as far as they get with what is there."""
        some = ceil(share * len(self._waiting))
        given, self._waiting = self._waiting[:some], self._waiting[some:]
        for turn in given:
            if not turn.done():
                turn.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
