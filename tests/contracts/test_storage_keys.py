"""The contract of IdempotencyKeys, on every database: of equal requests one does the work."""

import asyncio
from datetime import timedelta

from domain.storage import KnownKey
from tests.contracts.storing import BEGINNING, ME, Shelf

SEND = "sendMessage"
RESULT = {"conversation_id": "conv_1", "message_id": None}


async def use(shelf: Shelf, key: str = "k", operation: str = SEND, user_id: str = ME) -> KnownKey | None:
    """Reserve, and when the key was free keep a result under it."""
    async with shelf.storage.write() as work:
        known = await work.keys.reserve(user_id, operation, key, "print")
        if known is None:
            await work.keys.keep(user_id, operation, key, RESULT)
            await work.commit()
    return known


async def test_a_key_is_free_once_and_then_stands_for_its_result(shelf: Shelf) -> None:
    assert await use(shelf) is None
    assert await use(shelf) == KnownKey("print", RESULT)


async def test_a_key_belongs_to_its_user_and_operation(shelf: Shelf) -> None:
    other = await shelf.user()
    for user_id, operation, key in [(ME, SEND, "k"), (other, SEND, "k"), (ME, "editMessage", "k"), (ME, SEND, "K")]:
        assert await use(shelf, key, operation, user_id) is None


async def test_a_key_may_have_any_characters(shelf: Shelf) -> None:
    key = "🧀 ' \\ " + "ü" * 249
    assert await use(shelf, key) is None
    assert await use(shelf, key) == KnownKey("print", RESULT)


async def test_of_ten_requests_at_once_one_gets_the_key_and_the_others_its_result(shelf: Shelf) -> None:
    found = await asyncio.gather(*(use(shelf) for _ in range(10)))
    assert found.count(None) == 1
    assert found.count(KnownKey("print", RESULT)) == 9


async def test_a_key_whose_work_was_given_up_is_free_again(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        assert await work.keys.reserve(ME, SEND, "k", "print") is None
    assert await use(shelf) is None


async def test_whoever_waits_for_a_key_gets_it_when_the_work_is_given_up(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.keys.reserve(ME, SEND, "k", "other print")
        waiting = asyncio.create_task(use(shelf))
        await shelf.somebody_waits()
        assert not waiting.done()
    assert await waiting is None


async def test_the_sweep_frees_keys_used_before_its_instant(shelf: Shelf) -> None:
    await use(shelf, "early")
    shelf.clock.later(10)
    await use(shelf, "late")
    async with shelf.storage.write() as work:
        assert await work.keys.sweep(BEGINNING + timedelta(seconds=5)) == 1
        await work.commit()
    assert await use(shelf, "early") is None
    assert await use(shelf, "late") is not None
