"""The places of this process: how many replies it makes at once, and which.

A reply that is stored while a place is free need not go through the queue: it is stored as claimed. The queue is for
when there is no place here, or others wait for one. Nothing here knows how a reply is made or stored.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from domain.replies import Attempt, Lease, Owner

Make = Callable[[Lease], Coroutine[Any, Any, None]]
KEPT_DOUBTS = 100


class Place:
    """For a reply that is about to be stored; with its `lease` it is taken."""

    __slots__ = ("lease", "owner")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.lease: Lease | None = None


class Places:
    """Nobody is made before `open` has said how."""

    def __init__(self, owner: Owner, most: int) -> None:
        self.owner = owner
        self.crowded = True
        """Whether somebody in the queue may wait for a place."""
        self._most = most
        self._claiming = 0
        self.closed = False
        """Whether there are no more places, but for whoever holds one already."""
        self._make: Make | None = None
        self._left: Callable[[], None] | None = None
        self._making: dict[Attempt, asyncio.Task[None]] = {}
        self._doubtful: dict[Attempt, Lease] = {}
        self._context = copy_context()
        self._held: set[Place] = set()
        self._none_held = asyncio.Event()
        self._none_held.set()

    def open(self, make: Make, left: Callable[[], None]) -> None:
        """`make` makes a reply, `left` is called when one has left its place."""
        self._make, self._left = make, left

    async def none_held(self) -> None:
        """Returns when nobody is about to take one."""
        await self._none_held.wait()

    def __len__(self) -> int:
        """How many replies are being made."""
        return len(self._making)

    @property
    def free(self) -> int:
        return 0 if self.closed else self._most - len(self._making) - len(self._held) - self._claiming

    @property
    def making(self) -> set[asyncio.Task[None]]:
        return set(self._making.values())

    def know(self, attempt: Attempt) -> bool:
        """Whether it is being made here, or about to be."""
        coming = (place.lease.key for place in self._held if place.lease is not None)
        return attempt in self._making or attempt in coming

    @contextmanager
    def hold(self) -> Iterator[Place | None]:
        """A place for a reply that is stored in this block: where it is taken the reply is made from the end on.

        None where no place is free or others wait for one. A block that raises gives it back; whether the reply was
        stored all the same, as by a commit whose answer was lost, the database must tell: see `resume`.
        """
        if self.crowded or self.free <= 0:
            yield None
            return
        place = Place(self.owner.id)
        self._held.add(place)
        self._none_held.clear()
        try:
            yield place
        except BaseException:
            self._give_back(place)
            self._doubt(place)
            raise
        self._give_back(place)
        if place.lease is not None:
            self.begin(place.lease)

    @contextmanager
    def claim(self, most: int) -> Iterator[int]:
        """So many places for the queue, and nobody else, while this block claims."""
        self._claiming = max(0, min(most, self.free))
        try:
            yield self._claiming
        finally:
            self._claiming = 0

    def resume(self, attempt: Attempt) -> bool:
        """Begin what is ours in the database, if it took a place here in a block that raised."""
        lease = self._doubtful.pop(attempt, None)
        if lease is None or self.closed:
            return False
        self.begin(lease)
        return True

    def begin(self, lease: Lease) -> None:
        """In a context that is not that of whoever asked for the reply, which outlives them."""
        assert self._make is not None, "places are free only when it is known how replies are made"
        made = self._make(lease)
        task = asyncio.create_task(made, name=f"reply {lease.reply_id}", context=self._context.copy())
        self._making[lease.key] = task
        task.add_done_callback(partial(self._made, lease.key))

    def _give_back(self, place: Place) -> None:
        self._held.discard(place)
        if not self._held:
            self._none_held.set()

    def _doubt(self, place: Place) -> None:
        """The oldest is forgotten for a new one: then it is handed over, as if its process had died."""
        if place.lease is not None:
            self._doubtful[place.lease.key] = place.lease
        while len(self._doubtful) > KEPT_DOUBTS:
            del self._doubtful[next(iter(self._doubtful))]

    def _made(self, attempt: Attempt, _task: asyncio.Task[None]) -> None:
        self._making.pop(attempt, None)
        if self._left is not None:
            self._left()
