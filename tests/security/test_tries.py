"""How often a password may be tried, however many try at once, and what is no try. On both databases."""

import asyncio
from typing import Any

import pytest

from domain.account_service import TRIES
from domain.accounts import AuthMethod, Identity
from domain.errors import BadCredentials, DomainError, RateLimited, Unavailable
from persistence.unit_of_work import SqlStorage
from tests.doubles import QuickHasher
from tests.security.services import EMAIL, HERE, OLD, accounts, administration


async def test_many_tries_at_once_are_no_more_than_many_one_by_one(storage: SqlStorage) -> None:
    hasher = QuickHasher()
    services = accounts(storage, hasher)
    wrong = (services.login(EMAIL, f"wrong password {number}", HERE) for number in range(3 * TRIES))
    ends = await asyncio.gather(*wrong, return_exceptions=True)
    assert [type(end) for end in ends].count(BadCredentials) == TRIES
    assert [type(end) for end in ends].count(RateLimited) == 2 * TRIES
    assert hasher.verified == TRIES
    with pytest.raises(RateLimited):
        await services.login(EMAIL, OLD, HERE)


async def test_every_way_to_try_a_password_is_counted_and_an_open_session_stays(storage: SqlStorage) -> None:
    services = accounts(storage)
    signed_in = await services.login(EMAIL, OLD, HERE)
    person = Identity(signed_in.user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)
    ways: list[Any] = [
        lambda wrong: services.login(EMAIL, wrong, HERE),
        lambda wrong: services.login(f" {EMAIL.upper()} ", wrong, HERE),
        lambda wrong: services.change_password(person, wrong, "new password", HERE),
        lambda wrong: services.delete_account(person, wrong, HERE),
    ]
    ends = [await end_of(ways[number % len(ways)](f"wrong {number}")) for number in range(TRIES + 4)]
    assert ends == [BadCredentials] * TRIES + [RateLimited] * 4
    await services.refresh(signed_in.refresh_token, HERE)
    await administration(storage).set_password(EMAIL, OLD)
    assert await services.login(EMAIL, OLD, HERE)


async def end_of(trying: Any) -> type[DomainError] | None:
    try:
        await trying
    except DomainError as error:
        return type(error)
    return None


async def test_a_try_that_nobody_had_time_for_is_none(storage: SqlStorage) -> None:
    hasher = QuickHasher()
    hasher.full = True
    for _ in range(2 * TRIES):
        with pytest.raises(Unavailable):
            await accounts(storage, hasher).login(EMAIL, OLD, HERE)
    assert await accounts(storage).login(EMAIL, OLD, HERE)


async def test_right_passwords_at_once_do_not_lock_their_account(storage: SqlStorage) -> None:
    services = accounts(storage)
    for _ in range(3):
        await asyncio.gather(*(services.login(EMAIL, OLD, HERE) for _ in range(TRIES)))
