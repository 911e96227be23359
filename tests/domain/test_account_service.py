"""Registering and signing in, on real SQLite, and how often a password may be tried."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from domain.account_service import AccountPolicy, SignedIn
from domain.accounts import AuthMethod, Client
from domain.errors import (
    BadCredentials,
    EmailTaken,
    ErrorCode,
    RateLimited,
    Unavailable,
)
from persistence.tables import sessions, users
from tests.domain.people import EMAIL, HERE, OTHER, PASSWORD, THERE, WINDOW, Accounts, identity_of, refused
from tests.doubles import QuickHasher

# ── registering ──


async def test_who_registers_is_signed_in(accounts: Accounts) -> None:
    signed_in = await accounts.register(" Ada@Example.org")
    assert (signed_in.user.email, signed_in.user.display_name) == (EMAIL, "Ada")
    (session,) = await accounts.service.sessions(signed_in.user.id)
    assert (session.id, session.user_agent) == (signed_in.session_id, "Firefox")
    expiry = signed_in.access_expires_at - accounts.clock.now()
    assert timedelta(minutes=14) < expiry <= timedelta(minutes=15)
    assert signed_in.access_token == f"{signed_in.user.id} {session.id} {signed_in.access_expires_at:%H:%M}"
    assert (await accounts.login()).user == signed_in.user


async def test_closed_registration_makes_nobody(accounts: Accounts) -> None:
    closed = accounts.under(AccountPolicy(AuthMethod.PASSWORD))
    async with refused(ErrorCode.REGISTRATION_CLOSED):
        await closed.register(EMAIL, PASSWORD, None, HERE)
    assert await accounts.rows(users) == 1


async def test_an_address_that_is_taken_is_refused_in_any_spelling_and_stays_its_owners(accounts: Accounts) -> None:
    first = await accounts.register()
    with pytest.raises(EmailTaken):
        await accounts.service.register("ADA@EXAMPLE.ORG", OTHER, None, THERE)
    assert (await accounts.login()).user == first.user


async def test_of_many_who_register_one_address_at_once_one_gets_it(accounts: Accounts) -> None:
    ended = await asyncio.gather(*(accounts.register() for _ in range(5)), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ended) == ["EmailTaken"] * 4 + ["SignedIn"]
    assert await accounts.rows(sessions) == 1


@pytest.mark.parametrize(
    ("email", "password", "name", "path"),
    [
        ("ada", PASSWORD, None, "email"),
        (EMAIL, "short", None, "password"),
        (EMAIL, EMAIL, None, "password"),
        (EMAIL, PASSWORD, " ", "displayName"),
    ],
)
async def test_what_breaks_a_rule_is_refused_with_its_field(
    accounts: Accounts, email: str, password: str, name: str | None, path: str
) -> None:
    async with refused(ErrorCode.INVALID_INPUT, path):
        await accounts.service.register(email, password, name, HERE)
    assert await accounts.rows(users) == 1


async def test_registrations_are_counted_by_address(accounts: Accounts) -> None:
    service = accounts.under(AccountPolicy(AuthMethod.PASSWORD, registration_open=True, registrations_per_address=2))
    for n in range(2):
        await service.register(f"{n}@example.org", PASSWORD, None, HERE)
    with pytest.raises(RateLimited, match="registrations from this address"):
        await service.register("2@example.org", PASSWORD, None, HERE)
    await service.register("2@example.org", PASSWORD, None, THERE)
    await accounts.age_tries(timedelta(hours=1))
    await service.register("3@example.org", PASSWORD, None, HERE)


# ── signing in ──


async def test_each_login_begins_a_session_of_its_own(accounts: Accounts) -> None:
    signed_in = [await accounts.register(), await accounts.login(), await accounts.login(email="ADA@example.org ")]
    assert sorted(await accounts.session_ids(signed_in[0])) == sorted(each.session_id for each in signed_in)
    assert len({each.refresh_token for each in signed_in}) == 3


async def test_a_password_is_right_however_it_is_composed(accounts: Accounts) -> None:
    await accounts.service.register(EMAIL, "déjà vu déjà vu", None, HERE)
    await accounts.login("de\u0301ja\u0300 vu de\u0301ja\u0300 vu")


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(accounts: Accounts) -> None:
    await accounts.register()
    answers = []
    for email in (EMAIL, "nobody@example.org"):
        with pytest.raises(BadCredentials) as caught:
            await accounts.login("wrong", email)
        answers.append((caught.value.message, caught.value.path))
    assert answers[0] == answers[1]
    assert accounts.hasher.verified == 2, "as much is verified for the one as for the other"


async def test_the_local_user_and_users_of_a_provider_have_no_password_to_try(accounts: Accounts) -> None:
    user = (await accounts.register()).user
    async with accounts.running.storage.write() as work:
        await work.users.add(replace(user, id="user_oidc", email="grace@example.org", issuer="i", subject="s"), None)
        await work.commit()
    with pytest.raises(BadCredentials):
        await accounts.login("", "grace@example.org")


async def test_a_user_agent_of_any_length_is_kept_short(accounts: Accounts) -> None:
    await accounts.register()
    signed_in = await accounts.login(client=Client("192.0.2.1", "x\0" * 500))
    found = await accounts.service.sessions(signed_in.user.id)
    assert {session.user_agent for session in found} == {"Firefox", "x" * 100}


async def test_an_outdated_hash_is_renewed_when_its_user_signs_in(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    outdated = await QuickHasher("1").hash(PASSWORD)
    async with accounts.running.storage.write() as work:
        await work.users.set_password(signed_in.user.id, outdated)
        await work.commit()
    await accounts.login()
    async with accounts.running.storage.read() as work:
        account = await work.users.account(signed_in.user.id)
    assert account is not None
    assert not accounts.hasher.is_outdated(account.password_hash or "")
    await accounts.login()


async def in_mid_login(accounts: Accounts) -> "asyncio.Task[SignedIn]":
    """A login whose password is being verified."""
    accounts.hasher.go.clear()
    accounts.hasher.begun.clear()
    login = asyncio.create_task(accounts.login())
    await accounts.hasher.begun.wait()
    return login


async def test_who_is_deleted_in_mid_login_gets_no_session(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    login = await in_mid_login(accounts)
    async with accounts.running.storage.write() as work:
        await work.users.delete(signed_in.user.id)
        await work.commit()
    accounts.hasher.go.set()
    with pytest.raises(BadCredentials):
        await login
    assert await accounts.rows(sessions) == 0


async def test_a_login_by_the_old_password_does_not_outlive_a_new_one(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    login = await in_mid_login(accounts)
    await accounts.administration.set_password(EMAIL, OTHER)
    accounts.hasher.go.set()
    with pytest.raises(BadCredentials):
        await login
    assert await accounts.session_ids(signed_in) == []


async def test_a_change_by_the_old_password_does_not_undo_what_an_operator_set(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    accounts.hasher.go.clear()
    change = asyncio.create_task(
        accounts.service.change_password(identity_of(signed_in), PASSWORD, "a thief's own", HERE)
    )
    await accounts.hasher.begun.wait()
    await accounts.administration.set_password(EMAIL, OTHER)
    accounts.hasher.go.set()
    with pytest.raises(BadCredentials):
        await change
    assert await accounts.session_ids(signed_in) == []
    await accounts.login(OTHER)


# ── tries ──


async def test_after_ten_wrong_tries_even_the_right_password_has_to_wait(accounts: Accounts) -> None:
    await accounts.register()
    await accounts.wrong(10)
    assert WINDOW.total_seconds() - 60 < await accounts.locked(client=THERE) <= WINDOW.total_seconds()


async def test_right_tries_are_not_counted(accounts: Accounts) -> None:
    await accounts.register()
    await accounts.wrong(9)
    for _ in range(3):
        await accounts.login()
    await accounts.wrong(1)
    await accounts.locked()


async def test_a_try_counts_for_a_quarter_of_an_hour_from_when_it_was_made(accounts: Accounts) -> None:
    await accounts.register()
    await accounts.wrong(5)
    await accounts.age_tries(timedelta(minutes=10))
    await accounts.wrong(5)
    assert await accounts.locked() < timedelta(minutes=5, seconds=1).total_seconds()
    await accounts.age_tries(timedelta(minutes=5))
    await accounts.login()
    await accounts.wrong(5)
    await accounts.locked()


async def test_tries_for_somebody_who_is_not_there_count_the_same(accounts: Accounts) -> None:
    await accounts.wrong(10, "nobody@example.org")
    await accounts.locked("nobody@example.org")


async def test_tries_count_for_every_spelling_of_an_address_and_for_no_other(accounts: Accounts) -> None:
    await accounts.register()
    await accounts.register("grace@example.org")
    for spelling in (EMAIL, "ADA@example.org", " ada@EXAMPLE.org", "ａda@example.org", "Ada@Example.Org"):
        await accounts.wrong(2, spelling)
    await accounts.locked()
    await accounts.login(email="grace@example.org")


async def test_of_many_tries_at_once_ten_are_made(accounts: Accounts) -> None:
    await accounts.register()
    ended = await asyncio.gather(*(accounts.login("wrong") for _ in range(25)), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ended) == ["BadCredentials"] * 10 + ["RateLimited"] * 15
    assert accounts.hasher.verified == 10


async def test_a_try_that_nobody_had_time_for_does_not_count(accounts: Accounts) -> None:
    await accounts.register()
    accounts.hasher.full = True
    for _ in range(12):
        with pytest.raises(Unavailable):
            await accounts.login()
    accounts.hasher.full = False
    await accounts.login()


async def test_a_password_set_by_an_operator_lifts_the_lock_and_ends_every_session(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    await accounts.wrong(10)
    assert await accounts.administration.set_password(" ADA@example.org", OTHER) == signed_in.user
    assert await accounts.session_ids(signed_in) == []
    await accounts.login(OTHER)
    await accounts.wrong(10)


async def test_confirming_a_password_counts_as_a_try_of_the_account(accounts: Accounts) -> None:
    identity = identity_of(await accounts.register())
    for _ in range(5):
        async with refused(ErrorCode.BAD_CREDENTIALS, "currentPassword"):
            await accounts.service.change_password(identity, "wrong", OTHER, HERE)
        async with refused(ErrorCode.BAD_CREDENTIALS, "password"):
            await accounts.service.delete_account(identity, "wrong", HERE)
    await accounts.locked()


async def test_failed_tries_are_counted_by_address_whoever_they_are_for(accounts: Accounts) -> None:
    await accounts.register()
    service = accounts.under(AccountPolicy(AuthMethod.PASSWORD, logins_per_address=3))
    for n in range(3):
        with pytest.raises(BadCredentials):
            await service.login(f"{n}@example.org", "wrong", HERE)
    with pytest.raises(RateLimited):
        await service.login(EMAIL, PASSWORD, HERE)
    for _ in range(5):
        await service.login(EMAIL, PASSWORD, THERE)
