"""API keys on real SQLite, and what they are not for."""

from datetime import timedelta

import pytest

from domain.account_service import MAX_API_KEYS, AccountPolicy
from domain.accounts import AuthMethod, Identity
from domain.errors import (
    ErrorCode,
    InvalidInput,
    NotFound,
)
from tests.domain.people import EMAIL, HERE, OTHER, PASSWORD, Accounts, identity_of, refused

# ── API keys ──


async def test_a_key_is_shown_once_and_known_by_its_beginning(accounts: Accounts) -> None:
    identity = identity_of(await accounts.register())
    key, secret = await accounts.service.create_api_key(identity, "robot", None)
    assert secret.startswith("tk_")
    assert len(secret) >= 40
    assert secret.startswith(key.prefix)
    assert len(key.prefix) == 10
    assert await accounts.service.api_keys(identity.user_id) == [key]


async def test_keys_are_listed_newest_first_and_revoked_by_their_user_alone(accounts: Accounts) -> None:
    mine, theirs = identity_of(await accounts.register()), identity_of(await accounts.register("grace@example.org"))
    keys = [(await accounts.service.create_api_key(mine, name, None))[0] for name in ("one", "two")]
    assert await accounts.service.api_keys(mine.user_id) == keys[::-1]
    async with refused(ErrorCode.NOT_FOUND, "apiKeyId"):
        await accounts.service.revoke_api_key(theirs, keys[0].id)
    await accounts.service.revoke_api_key(mine, keys[0].id)
    with pytest.raises(NotFound):
        await accounts.service.revoke_api_key(mine, keys[0].id)
    assert await accounts.service.api_keys(mine.user_id) == keys[1:]


async def test_a_user_has_so_many_keys_and_no_more(accounts: Accounts) -> None:
    identity = identity_of(await accounts.register())
    for n in range(MAX_API_KEYS):
        key, _ = await accounts.service.create_api_key(identity, f"{n}", None)
    with pytest.raises(InvalidInput, match="revoke one first"):
        await accounts.service.create_api_key(identity, "one more", None)
    await accounts.service.revoke_api_key(identity, key.id)
    await accounts.service.create_api_key(identity, "another", None)


async def test_a_key_expires_in_the_future_or_never(accounts: Accounts) -> None:
    identity = identity_of(await accounts.register())
    for at in (accounts.clock.now(), accounts.clock.now() - timedelta(days=1)):
        async with refused(ErrorCode.INVALID_INPUT, "expiresAt"):
            await accounts.service.create_api_key(identity, "robot", at)
    later = accounts.clock.now() + timedelta(days=1)
    key, _ = await accounts.service.create_api_key(identity, "robot", later)
    assert key.expires_at == later
    async with refused(ErrorCode.INVALID_INPUT, "name"):
        await accounts.service.create_api_key(identity, " ", None)


@pytest.mark.parametrize("method", [AuthMethod.API_KEY, AuthMethod.NONE])
async def test_a_machine_manages_no_account(accounts: Accounts, method: AuthMethod) -> None:
    signed_in = await accounts.register()
    machine, service = Identity(signed_in.user.id, method, "key_1"), accounts.service
    attempts = (
        service.create_api_key(machine, "another", None),
        service.revoke_api_key(machine, "key_1"),
        service.revoke_session(machine, signed_in.session_id),
        service.change_password(machine, PASSWORD, OTHER, HERE),
        service.delete_account(machine, PASSWORD, HERE),
    )
    for attempt in attempts:
        async with refused(ErrorCode.FORBIDDEN):
            await attempt
    await accounts.login()


@pytest.mark.parametrize("method", [AuthMethod.NONE, AuthMethod.OIDC])
async def test_a_server_without_passwords_says_so(accounts: Accounts, method: AuthMethod) -> None:
    service = accounts.under(AccountPolicy(method, registration_open=True))
    person = Identity("user_1", AuthMethod.OIDC)
    attempts = (
        service.register(EMAIL, PASSWORD, None, HERE),
        service.login(EMAIL, PASSWORD, HERE),
        service.refresh("token", HERE),
        service.change_password(person, PASSWORD, OTHER, HERE),
        service.delete_account(person, PASSWORD, HERE),
    )
    for attempt in attempts:
        async with refused(ErrorCode.FORBIDDEN):
            await attempt
