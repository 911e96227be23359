"""Who a bearer token is, on real SQLite: sessions, keys and users of a provider, strangers, and what still holds."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from domain import authentication
from domain.accounts import AuthMethod, Identity
from domain.authentication import LOCAL, REVOKED, SIGN_IN, WRONG_KEY, Authenticator
from domain.errors import RateLimited, Unavailable
from persistence.tables import rates, users
from tertulia.services import TimeOrderedIds
from tests.domain.door import A_DAY, ADA, ISSUER, KEY, Door

# ── without accounts ──


@pytest.mark.parametrize("token", [None, "anything", KEY])
async def test_without_accounts_everybody_is_the_local_user(door: Door, token: str | None) -> None:
    nobody_reads = Authenticator(door.storage, door.clock, TimeOrderedIds(), None)
    assert await nobody_reads.identify(token) is LOCAL
    assert await nobody_reads.valid([LOCAL]) == {LOCAL}


# ── sessions ──


async def test_an_access_token_is_its_session(door: Door) -> None:
    expected = await door.signed_in()
    assert await door.authenticator.identify("ses_1") == expected


async def test_no_token_and_a_wrong_one_are_refused_each_with_its_reason(door: Door) -> None:
    assert await door.refused(None) == SIGN_IN
    assert await door.refused("forged") == "The access token is not valid; sign in again."


async def test_a_token_holds_no_longer_than_its_session(door: Door) -> None:
    await door.signed_in()
    await door.sign_out()
    assert await door.refused("ses_1") == REVOKED
    await door.signed_in("ses_2", -A_DAY)
    assert await door.refused("ses_2") == REVOKED
    await door.signed_in("ses_3")
    await door.delete_ada()
    assert await door.refused("ses_3") == REVOKED


async def test_keys_that_are_away_are_no_fault_of_the_token(door: Door) -> None:
    door.tokens.away = True
    with pytest.raises(Unavailable):
        await door.authenticator.identify("ses_1")


async def test_neither_is_a_database_that_fails_in_the_middle_of_the_question(door: Door) -> None:
    async with door.storage.write() as work:
        await work.connection.execute(text("ALTER TABLE api_keys RENAME TO elsewhere"))
        await work.commit()
    with pytest.raises(Unavailable):
        await door.authenticator.identify(KEY)


# ── API keys ──


async def test_an_api_key_is_its_user_by_a_machine(door: Door) -> None:
    key = await door.key(door.soon)
    assert await door.authenticator.identify(KEY) == Identity(ADA.id, AuthMethod.API_KEY, key.id, key.expires_at)


async def test_a_key_that_is_wrong_revoked_expired_or_of_a_deleted_user_is_refused_alike(door: Door) -> None:
    await door.key()
    assert await door.refused(KEY + "x") == WRONG_KEY
    assert await door.refused("tk_") == WRONG_KEY
    await door.revoke_key()
    assert await door.refused(KEY) == WRONG_KEY
    await door.key(door.clock.at - A_DAY)
    assert await door.refused(KEY) == WRONG_KEY
    await door.revoke_key()
    await door.key()
    await door.delete_ada()
    assert await door.refused(KEY) == WRONG_KEY


async def test_the_use_of_a_key_is_remembered_at_most_once_a_minute(door: Door) -> None:
    await door.key()
    first = door.clock.at
    for seconds in (0, 30, 30):
        door.clock.at += timedelta(seconds=seconds)
        await door.authenticator.identify(KEY)
        assert await door.last_used() == first
    door.clock.at += timedelta(milliseconds=1)
    await door.authenticator.identify(KEY)
    assert await door.last_used() == door.clock.at


# ── users of an identity provider ──


async def test_who_comes_from_a_provider_for_the_first_time_becomes_a_user_and_stays_one(door: Door) -> None:
    door.comes_from_provider(name="Grace", email="grace@example.org")
    first = await door.authenticator.identify("theirs")
    assert (first.method, first.credential_id, first.expires_at) == (AuthMethod.OIDC, None, door.soon)
    assert await door.authenticator.identify("theirs") == first
    (user,) = await door.known()
    assert (user.id, user.issuer, user.subject, user.display_name) == (first.user_id, ISSUER, "42", "Grace")
    assert user.email is None, "an address of theirs is nobody's here"


async def test_a_provider_that_tells_no_name_gives_the_address_as_one_or_none(door: Door) -> None:
    door.comes_from_provider("a", "1", email="grace@example.org")
    door.comes_from_provider("b", "2")
    for token in "ab":
        await door.authenticator.identify(token)
    assert {user.subject: user.display_name for user in await door.known()} == {"1": "grace@example.org", "2": None}


async def test_of_several_first_times_at_once_one_user_is_made(door: Door) -> None:
    door.comes_from_provider()
    found = await asyncio.gather(*(door.authenticator.identify("theirs") for _ in range(8)))
    assert len(set(found)) == 1
    assert [user.id for user in await door.known()] == [found[0].user_id]


async def test_an_address_of_a_provider_does_not_make_somebody_a_user_who_has_it_here(door: Door) -> None:
    door.comes_from_provider(email=ADA.email or "")
    assert (await door.authenticator.identify("theirs")).user_id != ADA.id


async def test_nobody_is_made_a_user_by_a_token_that_does_not_hold(door: Door) -> None:
    await door.refused("theirs")
    async with door.database.connect(writing=False) as connection:
        assert len((await connection.execute(select(users))).all()) == 2


# ── what still holds ──


async def test_what_was_revoked_or_has_expired_does_not_hold(door: Door) -> None:
    await door.key()
    session, key = await door.signed_in(), await door.authenticator.identify(KEY)
    gone, over = await door.signed_in("ses_2"), replace(session, expires_at=door.clock.at)
    provided = Identity("user_x", AuthMethod.OIDC, None, door.soon)
    await door.sign_out("ses_2")
    asked = [LOCAL, session, key, gone, over, provided]
    assert await door.authenticator.valid(asked) == {LOCAL, session, key, provided}
    await door.revoke_key()
    door.clock.at = door.soon
    assert await door.authenticator.valid(asked) == {LOCAL}
    assert await door.authenticator.valid([]) == set()


async def test_a_session_is_no_key_though_it_had_its_id(door: Door) -> None:
    session = await door.signed_in()
    posing = replace(session, method=AuthMethod.API_KEY)
    assert await door.authenticator.valid([posing]) == set()


async def test_any_number_of_identities_is_looked_at(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "LOOKED_AT_ONCE", 2)
    held = [await door.signed_in(f"ses_{n}") for n in range(5)]
    await door.sign_out("ses_3")
    assert await door.authenticator.valid(held) == {*held[:3], held[4]}


# ── strangers ──


async def test_strangers_are_limited_by_address_and_nobody_else(door: Door) -> None:
    authenticator, known = door.admitting(2), await door.signed_in()
    for who in (None, LOCAL):
        await authenticator.admit(who, "192.0.2.1")
    for who in (None, LOCAL):
        with pytest.raises(RateLimited) as caught:
            await authenticator.admit(who, "192.0.2.1")
        assert 0 < caught.value.retry_after <= 60
    await authenticator.admit(None, "192.0.2.2")
    await authenticator.admit(known, "192.0.2.1")


async def test_without_a_limit_strangers_are_not_counted(door: Door) -> None:
    for _ in range(3):
        await door.authenticator.admit(None, "192.0.2.1")
    async with door.database.connect(writing=False) as connection:
        assert (await connection.execute(select(rates))).all() == []
