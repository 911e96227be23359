"""Lanes: the short way of a subscription's events from their commit to the socket.

The long way is five generators and a task to wake for each event. An event that has a plan (see `plans.py`) needs none
of them: its source shows it at once, while the long way waits for the next event, and goes on there with what the lane
cannot take. Only a socket that writes at once has lanes. Knows nothing of what the events mean.
"""

from collections.abc import Callable
from contextvars import ContextVar

from graph.plans import Plan


class Lane:
    """Of one operation. `plan_of` is known once its first event has been executed."""

    __slots__ = ("_opening", "_write", "plan_of")

    def __init__(self, opening: bytes, write: Callable[[bytes], bool]) -> None:
        self._opening = opening
        self._write = write
        self.plan_of: Callable[[type], Plan | None] = lambda _: None

    def show(self, event: object) -> bool:
        """Send the result of an event. False, with nothing done, where it needs the long way."""
        plan = self.plan_of(type(event))
        return plan is not None and self._write(self._opening + plan.result(event).payload + b"}")


LANE: ContextVar[Lane | None] = ContextVar("LANE", default=None)
"""Of the operation that the task runs."""
