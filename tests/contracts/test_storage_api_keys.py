"""The contract of ApiKeys, on every database.

Expiry goes by the database's clock, so instants are near the present.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.accounts import ApiKey
from domain.errors import StorageError
from tests.contracts.storing import BEGINNING, ME, Shelf, new_id

NOW = datetime.now(UTC)
OVER, LATER = NOW - timedelta(seconds=1), NOW + timedelta(days=1)


async def made(shelf: Shelf, key_hash: str, **changes: Any) -> ApiKey:
    key = replace(ApiKey(new_id("key"), ME, "Nightly build 🧀", "tk_abcd", BEGINNING), **changes)
    async with shelf.storage.write() as work:
        await work.api_keys.add(key, key_hash)
        await work.commit()
    return key


async def by_hash(shelf: Shelf, key_hash: str) -> ApiKey | None:
    async with shelf.storage.peek() as work:
        return await work.api_keys.by_hash(key_hash)


async def alive(shelf: Shelf, *key_ids: str) -> set[str]:
    async with shelf.storage.peek() as work:
        return await work.api_keys.alive(key_ids)


async def of_user(shelf: Shelf, user_id: str = ME) -> list[ApiKey]:
    async with shelf.storage.read() as work:
        return await work.api_keys.of_user(user_id)


async def revoke(shelf: Shelf, user_id: str, key_id: str) -> bool:
    async with shelf.storage.write() as work:
        revoked = await work.api_keys.revoke(user_id, key_id)
        await work.commit()
    return revoked


async def test_a_key_is_found_by_its_hash_as_it_was_added(shelf: Shelf) -> None:
    forever, limited = await made(shelf, "1"), await made(shelf, "2", expires_at=LATER)
    assert [await by_hash(shelf, each) for each in ("1", "2", "3")] == [forever, limited, None]


async def test_a_hash_stands_for_one_key(shelf: Shelf) -> None:
    await made(shelf, "1")
    with pytest.raises(StorageError):
        await made(shelf, "1")


async def test_a_users_keys_are_listed_newest_first_also_those_that_have_expired(shelf: Shelf) -> None:
    await made(shelf, "other", user_id=await shelf.user())
    keys = [
        await made(shelf, "1", created_at=BEGINNING),
        await made(shelf, "2", created_at=BEGINNING + timedelta(days=2)),
        await made(shelf, "3", created_at=BEGINNING + timedelta(days=1), expires_at=OVER),
        await made(shelf, "4", created_at=BEGINNING),
    ]
    assert await of_user(shelf) == [keys[1], keys[2], keys[3], keys[0]]


async def test_a_key_that_has_expired_is_not_found_by_its_hash(shelf: Shelf) -> None:
    await made(shelf, "1", expires_at=OVER)
    assert await by_hash(shelf, "1") is None


async def test_alive_are_those_that_can_still_be_used(shelf: Shelf) -> None:
    forever, limited = await made(shelf, "1"), await made(shelf, "2", expires_at=LATER)
    expired, revoked = await made(shelf, "3", expires_at=OVER), await made(shelf, "4")
    await revoke(shelf, ME, revoked.id)
    asked = (forever.id, limited.id, expired.id, revoked.id, "key_\0")
    assert await alive(shelf, *asked) == {forever.id, limited.id}
    assert await alive(shelf) == set()


async def test_a_key_made_while_its_user_was_deleted_cannot_be_used(shelf: Shelf) -> None:
    user_id = await shelf.user()
    key = ApiKey(new_id("key"), user_id, "ci", "tk_abcd", BEGINNING)
    async with shelf.storage.write() as work:
        await work.users.delete(user_id)
        await work.api_keys.add(key, "1")
        await work.commit()
    assert await by_hash(shelf, "1") is None
    assert await alive(shelf, key.id) == set()
    assert await of_user(shelf, user_id) == []


async def test_a_use_of_a_key_is_remembered(shelf: Shelf) -> None:
    key, other = await made(shelf, "1"), await made(shelf, "2")
    async with shelf.storage.write() as work:
        await work.api_keys.touch(key.id, NOW)
        await work.api_keys.touch("key_absent", NOW)
        await work.commit()
    assert await by_hash(shelf, "1") == replace(key, last_used_at=NOW)
    assert await by_hash(shelf, "2") == other


async def test_a_revoked_key_is_gone(shelf: Shelf) -> None:
    key = await made(shelf, "1")
    assert await revoke(shelf, ME, key.id)
    assert not await revoke(shelf, ME, key.id)
    assert await by_hash(shelf, "1") is None


async def test_nobody_revokes_what_is_not_theirs(shelf: Shelf) -> None:
    key = await made(shelf, "1")
    assert not await revoke(shelf, await shelf.user(), key.id)
    assert await by_hash(shelf, "1") == key
