"""A password that is changed while somebody uses the old one: whichever comes first, the old one holds nothing after.

On both databases, with the slower of the two held up in the middle of its last step.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from domain.account_service import SignedIn
from domain.accounts import AuthMethod, Identity
from domain.authentication import Authenticator
from domain.errors import BadCredentials, SessionExpired, StorageError
from domain.storage import Storage, UnitOfWork
from persistence.unit_of_work import SqlStorage
from tertulia.services import SystemClock, TimeOrderedIds
from tests.doubles import QuickHasher
from tests.security.services import EMAIL, HERE, OLD, TOKENS, accounts, administration

WAITS = 0.5
"""Seconds in which a step that does not wait for the other one is done."""
NEW, THIEFS = "new password", "a thief's password"


class HeldUp:
    """A Storage whose units wait before they add a session, until they may."""

    def __init__(self, storage: SqlStorage) -> None:
        self._storage = storage
        self.reached, self.may = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[UnitOfWork]:
        async with self._storage.write() as work:
            add = work.sessions.add

            async def later(*given: Any) -> None:
                self.reached.set()
                await self.may.wait()
                await add(*given)

            work.sessions.add = later  # type: ignore[method-assign,assignment]
            yield cast(UnitOfWork, work)


class SlowHasher(QuickHasher):
    """Takes its time for one password."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self._slow = slow
        self.reached, self.may = asyncio.Event(), asyncio.Event()

    async def hash(self, password: str) -> str:
        if password == self._slow:
            self.reached.set()
            await self.may.wait()
        return await super().hash(password)


async def holds(storage: SqlStorage, signed_in: SignedIn) -> bool:
    """Whether anything of what somebody was given still works."""
    identity = Identity(signed_in.user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)
    authenticator = Authenticator(storage, SystemClock(), TimeOrderedIds(), TOKENS)
    alive = await authenticator.valid([identity])
    try:
        await accounts(storage).refresh(signed_in.refresh_token, HERE)
    except SessionExpired:
        return bool(alive)
    return True


async def test_a_login_by_the_old_password_beside_the_operators_new_one_leaves_no_session(storage: SqlStorage) -> None:
    held_up = HeldUp(storage)
    login = asyncio.create_task(accounts(cast(Storage, held_up)).login(EMAIL, OLD, HERE))
    await held_up.reached.wait()
    new = asyncio.create_task(administration(storage).set_password(EMAIL, NEW))
    await asyncio.wait([new], timeout=WAITS)
    held_up.may.set()
    (signed_in, _) = await asyncio.gather(login, new)
    assert not await holds(storage, signed_in)


async def test_a_new_password_of_a_thief_does_not_replace_that_of_the_operator(storage: SqlStorage) -> None:
    signed_in = await accounts(storage).login(EMAIL, OLD, HERE)
    thief = Identity(signed_in.user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)
    hasher = SlowHasher(THIEFS)
    changing = asyncio.create_task(accounts(storage, hasher).change_password(thief, OLD, THIEFS, HERE))
    await hasher.reached.wait()
    await administration(storage).set_password(EMAIL, NEW)
    hasher.may.set()
    with pytest.raises(BadCredentials):
        await changing
    assert await holds(storage, await accounts(storage).login(EMAIL, NEW, HERE))


async def test_changes_of_a_password_at_once_leave_one_session_that_belongs_to_the_last(storage: SqlStorage) -> None:
    services = accounts(storage)
    signed_in = await services.login(EMAIL, OLD, HERE)
    person = Identity(signed_in.user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)
    news = [f"new password {number}" for number in range(4)]
    changes = (services.change_password(person, OLD, new, HERE) for new in news)
    ends = await asyncio.gather(*changes, return_exceptions=True)
    won = [(new, end) for new, end in zip(news, ends, strict=True) if isinstance(end, SignedIn)]
    assert len(won) == 1, ends
    assert {type(end) for end in ends} <= {SignedIn, BadCredentials}
    assert await holds(storage, won[0][1])
    assert await holds(storage, await services.login(EMAIL, won[0][0], HERE))


async def test_leaving_beside_a_new_password_ends_in_one_of_both(storage: SqlStorage) -> None:
    services = accounts(storage)
    for number in range(10):
        email = f"person{number}@example.org"
        await administration(storage).create_user(email, OLD, None)
        signed_in = await services.login(email, OLD, HERE)
        person = Identity(signed_in.user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)
        ends = await asyncio.gather(
            services.delete_account(person, OLD, HERE),
            services.change_password(person, OLD, NEW, HERE),
            return_exceptions=True,
        )
        assert not [end for end in ends if isinstance(end, StorageError)], ends
        with pytest.raises(BadCredentials):
            await services.login(email, OLD, HERE)
