"""The contract of passwords of users, on every database: each is its user's alone, and can be relied on for a unit."""

import asyncio

from domain.account_storage import Account
from tests.contracts.storing import Shelf
from tests.contracts.test_storage_users import HASH, a_user, added


async def test_a_password_is_changed_for_its_user_alone(shelf: Shelf) -> None:
    user, other = await added(shelf), await added(shelf, email="grace@example.org")
    async with shelf.storage.write() as work:
        await work.users.set_password(user.id, "new")
        await work.commit()
    async with shelf.storage.read() as work:
        assert await work.users.account(user.id) == Account(user, "new")
        assert await work.users.account(other.id) == Account(other, HASH)


def test_no_password_hash_is_shown() -> None:
    assert HASH not in repr(Account(a_user(), HASH))


async def test_an_account_that_is_held_is_as_it_is_now_and_stays_so(shelf: Shelf) -> None:
    user = await added(shelf)

    async def set_password() -> None:
        async with shelf.storage.write() as work:
            await work.users.set_password(user.id, "new")
            await work.commit()

    async with shelf.storage.write() as work:
        assert await work.users.account(user.id, lock=True) == Account(user, HASH)
        setting = asyncio.create_task(set_password())
        await shelf.somebody_waits()
        assert await work.users.account(user.id) == Account(user, HASH)
        await work.commit()
    await setting
    async with shelf.storage.write() as work:
        assert await work.users.account(user.id, lock=True) == Account(user, "new")
        assert await work.users.account("user_absent", lock=True) is None


async def test_whoever_holds_an_account_does_not_keep_others_from_adding_to_it(shelf: Shelf) -> None:
    user = await added(shelf)
    async with shelf.storage.write() as work:
        await work.users.account(user.id, lock=True)
        if not shelf.database.is_sqlite:
            await shelf.conversation(user_id=user.id)
