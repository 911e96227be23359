"""Lanes: the short way of a subscription's events from their commit to the socket.

The long way is five generators and a task to wake for each event. An event that has a plan (see `plans.py`) needs none
of them: its source shows it at once, while the long way waits for the next event, and goes on there with what the lane
cannot take. Only a socket that writes at once has lanes. Knows nothing of what the events mean.
"""

from collections.abc import Callable
from contextvars import ContextVar

from graph.encoded import EncodedResult


class Lane:
    """Of one operation. `planned` is known once that is executed: it gives the result of an event that has a plan."""

    __slots__ = ("_opening", "_write", "planned")

    def __init__(self, opening: bytes, write: Callable[[bytes], bool]) -> None:
        self._opening = opening
        self._write = write
        self.planned: Callable[[object], EncodedResult | None] = lambda _: None

    def show(self, event: object) -> bool:
        """Send the result of an event. False, with nothing done, where it needs the long way."""
        result = self.planned(event)
        return result is not None and self._write(self._opening + result.payload + b"}")


LANE: ContextVar[Lane | None] = ContextVar("LANE", default=None)
"""Of the operation that the task runs."""
