"""Places: which replies a process makes without asking the queue, and when it must ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace

import pytest

from domain.conversations import GenerationSettings
from domain.places import Places
from domain.replies import Lease, Owner

LEASE = Lease("msg_1", "conv_1", "user_1", 1, "work_1", 2, GenerationSettings(), None)


class Maker:
    """Makes replies until it is told that they are whole."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.left = 0
        self.whole = asyncio.Event()

    async def make(self, lease: Lease) -> None:
        self.made.append(lease.reply_id)
        await self.whole.wait()

    def leave(self) -> None:
        self.left += 1


@pytest.fixture
async def maker() -> AsyncIterator[Maker]:
    maker = Maker()
    yield maker
    maker.whole.set()


@pytest.fixture
def places(maker: Maker) -> Places:
    """Two, both free, and nobody waits."""
    places = Places(Owner("work_1"), 2)
    places.open(maker.make, maker.leave)
    places.crowded = False
    return places


def take(places: Places, reply_id: str) -> bool:
    with places.hold() as place:
        if place is None:
            return False
        place.lease = replace(LEASE, reply_id=reply_id, owner=place.owner)
        return True


async def test_a_reply_that_took_a_place_is_made_from_the_end_of_the_block_on(places: Places, maker: Maker) -> None:
    with places.hold() as place:
        assert place is not None
        place.lease = LEASE
        await asyncio.sleep(0)
        assert not maker.made
    await asyncio.sleep(0)
    assert maker.made == ["msg_1"]


async def test_there_are_no_more_places_than_were_given(places: Places) -> None:
    assert [take(places, f"msg_{n}") for n in range(3)] == [True, True, False]


async def test_a_place_is_free_again_when_its_reply_is_made_and_somebody_hears_of_it(
    places: Places, maker: Maker
) -> None:
    assert take(places, "msg_1")
    (making,) = places.making
    maker.whole.set()
    await asyncio.wait([making])
    await asyncio.sleep(0)
    assert (places.free, maker.left) == (2, 1)


async def test_whoever_comes_while_others_wait_in_the_queue_goes_there_too(places: Places) -> None:
    places.crowded = True
    assert not take(places, "msg_1")


async def test_before_the_queue_was_looked_at_others_may_wait_there() -> None:
    assert not take(Places(Owner("work_1"), 2), "msg_1")


async def test_a_place_that_was_not_taken_is_given_back(places: Places, maker: Maker) -> None:
    with places.hold():
        assert places.free == 1
    assert places.free == 2
    await asyncio.sleep(0)
    assert not maker.made


async def test_a_reply_that_could_not_be_stored_gives_its_place_back_and_is_not_made(
    places: Places, maker: Maker
) -> None:
    def fail() -> None:
        with places.hold() as place:
            assert place is not None
            place.lease = LEASE
            raise RuntimeError("no answer")

    with pytest.raises(RuntimeError):
        fail()
    await asyncio.sleep(0)
    assert (places.free, maker.made) == (2, [])
    assert not places.know(LEASE.key)


async def test_a_reply_is_known_from_before_it_is_stored_until_it_is_made(places: Places, maker: Maker) -> None:
    assert not places.know(LEASE.key)
    with places.hold() as place:
        assert place is not None
        place.lease = LEASE
        assert places.know(LEASE.key)
    assert places.know(LEASE.key)
    (making,) = places.making
    maker.whole.set()
    await asyncio.wait([making])
    await asyncio.sleep(0)
    assert not places.know(LEASE.key)


async def test_what_the_queue_is_about_to_claim_nobody_else_takes(places: Places) -> None:
    with places.claim(50) as room:
        assert room == 2
        assert not take(places, "msg_1")
    assert take(places, "msg_1")


async def test_places_that_are_held_are_not_claimed(places: Places) -> None:
    with places.hold(), places.claim(50) as room:
        assert room == 1


async def test_closed_places_are_nobodys_but_whoever_holds_one_keeps_it(places: Places, maker: Maker) -> None:
    with places.hold() as place:
        assert place is not None
        places.closed = True
        waiting = asyncio.create_task(places.none_held())
        await asyncio.sleep(0)
        assert not waiting.done()
        place.lease = LEASE
    await waiting
    await asyncio.sleep(0)
    assert maker.made == ["msg_1"]
    assert not take(places, "msg_2")


async def test_what_a_block_left_in_doubt_is_begun_when_it_turns_out_to_be_ours(places: Places, maker: Maker) -> None:
    with suppress(RuntimeError), places.hold() as place:
        assert place is not None
        place.lease = LEASE
        raise RuntimeError("no answer")
    assert places.resume(LEASE.key)
    assert not places.resume(LEASE.key)
    await asyncio.sleep(0)
    assert maker.made == ["msg_1"]


async def test_what_is_nobodys_doubt_is_not_begun_and_nothing_is_when_there_are_no_places(
    places: Places, maker: Maker
) -> None:
    assert not places.resume(LEASE.key)
    with suppress(RuntimeError), places.hold() as place:
        assert place is not None
        place.lease = LEASE
        raise RuntimeError("no answer")
    places.closed = True
    assert not places.resume(LEASE.key)
    assert not places.making


async def test_no_more_doubts_are_kept_than_a_hundred(places: Places) -> None:
    for number in range(101):
        with suppress(RuntimeError), places.hold() as place:
            assert place is not None
            place.lease = replace(LEASE, reply_id=f"msg_{number}")
            raise RuntimeError("no answer")
    assert [places.resume((f"msg_{number}", 1)) for number in (0, 1, 100)] == [False, True, True]


async def test_a_reply_is_not_made_in_the_context_of_whoever_asked_for_it() -> None:
    asker: ContextVar[str] = ContextVar("asker")
    seen: list[str | None] = []

    async def make(_lease: Lease) -> None:
        seen.append(asker.get(None))

    places = Places(Owner("work_1"), 2)
    places.open(make, lambda: None)
    places.crowded = False
    asker.set("somebody")
    assert take(places, "msg_1")
    await asyncio.wait(places.making)
    assert seen == [None]
