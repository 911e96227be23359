"""Sessions on real SQLite: refreshing, signing out, a new password, and the end of an account."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from domain.account_service import MAX_SESSIONS
from domain.accounts import LOCAL_USER_ID, REFRESH_GRACE, AuthMethod, Identity
from domain.conversations import PageRequest
from domain.errors import (
    BadCredentials,
    ErrorCode,
    NotFound,
    SessionExpired,
)
from domain.inputs import SendMessage
from persistence.tables import conversations, refresh_tokens, sessions, users
from tests.domain.people import EMAIL, HERE, OTHER, PASSWORD, THERE, Accounts, identity_of, machine_of, refused
from tests.doubles import ScriptedModel, answer
from tests.patience import PATIENCE_SECONDS

# ── refreshing ──


async def test_a_refresh_gives_new_tokens_of_the_same_session(accounts: Accounts) -> None:
    first = await accounts.register()
    accounts.clock.at += timedelta(minutes=20)
    second = await accounts.service.refresh(first.refresh_token, THERE)
    assert (second.user, second.session_id) == (first.user, first.session_id)
    assert second.refresh_token != first.refresh_token
    assert second.access_expires_at - first.access_expires_at == timedelta(minutes=20)
    (session,) = await accounts.service.sessions(first.user.id)
    assert session.last_seen_at == accounts.clock.now()
    assert session.expires_at == accounts.clock.now() + timedelta(days=30)


async def test_two_tabs_may_use_a_token_at_once(accounts: Accounts) -> None:
    first = await accounts.register()
    tabs = await asyncio.gather(*(accounts.service.refresh(first.refresh_token, HERE) for _ in range(2)))
    accounts.clock.at += timedelta(seconds=10)
    await accounts.service.refresh(first.refresh_token, HERE)
    accounts.clock.at += timedelta(days=1)
    for tab in tabs:
        await accounts.service.refresh(tab.refresh_token, HERE)


async def test_a_token_that_is_used_again_later_ends_its_session_with_all_its_tokens(accounts: Accounts) -> None:
    first, other = await accounts.register(), await accounts.login()
    second = await accounts.service.refresh(first.refresh_token, HERE)
    accounts.clock.at += timedelta(seconds=10.001)
    for token in (first.refresh_token, second.refresh_token):
        with pytest.raises(SessionExpired):
            await accounts.service.refresh(token, HERE)
    assert await accounts.session_ids(first) == [other.session_id]
    assert await accounts.rows(refresh_tokens) == 1


async def test_the_moment_for_two_tabs_does_not_grow_with_each_use(accounts: Accounts) -> None:
    first = await accounts.register()
    for _ in range(3):
        await accounts.service.refresh(first.refresh_token, HERE)
        accounts.clock.at += timedelta(seconds=4)
    with pytest.raises(SessionExpired):
        await accounts.service.refresh(first.refresh_token, HERE)


@pytest.mark.parametrize("token", ["", "unknown", "\ud800"])
async def test_what_is_no_refresh_token_refreshes_nothing(accounts: Accounts, token: str) -> None:
    with pytest.raises(SessionExpired):
        await accounts.service.refresh(token, HERE)


async def test_no_token_is_stored_as_it_is(accounts: Accounts, tmp_path: Path) -> None:
    signed_in = await accounts.register()
    _, key = await accounts.service.create_api_key(identity_of(signed_in), "robot", None)
    stored = await asyncio.to_thread(lambda: b"".join(file.read_bytes() for file in tmp_path.glob("test.db*")))
    assert EMAIL.encode() in stored
    assert not [secret for secret in (signed_in.refresh_token, key, PASSWORD) if secret.encode() in stored]


# ── signing out ──


async def test_signing_out_ends_the_session_that_asks(accounts: Accounts) -> None:
    first, second = await accounts.register(), await accounts.login()
    await accounts.service.logout(identity_of(first), None, everywhere=False)
    assert await accounts.session_ids(first) == [second.session_id]
    with pytest.raises(SessionExpired):
        await accounts.service.refresh(first.refresh_token, HERE)


async def test_a_refresh_token_says_which_session_ends_whoever_asks(accounts: Accounts) -> None:
    first, second = await accounts.register(), await accounts.login()
    await accounts.service.logout(None, first.refresh_token, everywhere=False)
    assert await accounts.session_ids(first) == [second.session_id]


async def test_signing_out_everywhere_ends_every_session_of_the_user_alone(accounts: Accounts) -> None:
    first, other = await accounts.register(), await accounts.register("grace@example.org")
    await accounts.login()
    await accounts.service.logout(identity_of(first), None, everywhere=True)
    assert await accounts.session_ids(first) == []
    assert await accounts.session_ids(other) == [other.session_id]


async def test_signing_out_again_or_by_an_unknown_token_does_nothing(accounts: Accounts) -> None:
    first, second = await accounts.register(), await accounts.login()
    for _ in range(2):
        await accounts.service.logout(None, first.refresh_token, everywhere=True)
    assert await accounts.session_ids(second) == []
    third = await accounts.login()
    await accounts.service.logout(None, None, everywhere=True)
    await accounts.service.logout(identity_of(third), "unknown", everywhere=True)
    assert await accounts.session_ids(third) == [third.session_id]


async def test_a_machine_has_no_session_to_end(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    for identity in (machine_of(signed_in), Identity(LOCAL_USER_ID, AuthMethod.NONE)):
        async with refused(ErrorCode.FORBIDDEN):
            await accounts.service.logout(identity, None, everywhere=True)
    assert await accounts.session_ids(signed_in) == [signed_in.session_id]


async def test_a_refresh_token_that_was_used_before_ends_no_other_session(accounts: Accounts) -> None:
    first, second = await accounts.register(), await accounts.login()
    await accounts.service.refresh(first.refresh_token, HERE)
    accounts.clock.at += REFRESH_GRACE + timedelta(seconds=1)
    await accounts.service.logout(None, first.refresh_token, everywhere=True)
    assert await accounts.session_ids(second) == [second.session_id]


async def test_of_very_many_sessions_the_one_that_was_not_seen_for_longest_ends(accounts: Accounts) -> None:
    first = await accounts.register()
    for _ in range(MAX_SESSIONS):
        accounts.clock.at += timedelta(seconds=1)
        last = await accounts.login()
    found = await accounts.session_ids(last)
    assert len(found) == MAX_SESSIONS
    assert first.session_id not in found


async def test_a_session_is_revoked_by_its_user_alone(accounts: Accounts) -> None:
    mine, theirs = await accounts.register(), await accounts.register("grace@example.org")
    async with refused(ErrorCode.NOT_FOUND, "sessionId"):
        await accounts.service.revoke_session(identity_of(mine), theirs.session_id)
    await accounts.service.revoke_session(identity_of(mine), mine.session_id)
    with pytest.raises(NotFound):
        await accounts.service.revoke_session(identity_of(mine), mine.session_id)
    assert await accounts.session_ids(theirs) == [theirs.session_id]


# ── passwords ──


async def test_a_changed_password_ends_every_session_and_begins_one(accounts: Accounts) -> None:
    first = await accounts.register()
    await accounts.login()
    await accounts.service.create_api_key(identity_of(first), "robot", None)
    changed = await accounts.service.change_password(identity_of(first), PASSWORD, OTHER, HERE)
    assert await accounts.session_ids(first) == [changed.session_id]
    assert len(await accounts.service.api_keys(first.user.id)) == 1
    await accounts.login(OTHER)
    await accounts.wrong(1)
    with pytest.raises(BadCredentials):
        await accounts.login()


async def test_a_new_password_that_breaks_a_rule_changes_nothing(accounts: Accounts) -> None:
    first = await accounts.register()
    for new in ("short", EMAIL):
        async with refused(ErrorCode.INVALID_INPUT, "newPassword"):
            await accounts.service.change_password(identity_of(first), PASSWORD, new, HERE)
    await accounts.login()
    assert first.session_id in await accounts.session_ids(first)


# ── the end ──


async def test_a_deleted_account_stops_its_replies_and_is_gone_at_once(
    accounts: Accounts, model: ScriptedModel
) -> None:
    model.play([*answer("Hello")[:2], asyncio.Event()])
    signed_in = await accounts.register()
    services, user_id = accounts.running.services, signed_in.user.id
    sent = await services.replies.send_message(user_id, SendMessage("Hi"))
    stream = await services.stream.follow(user_id, sent.reply_id, None)
    async for _ in stream:
        if model.requests:
            break
    await accounts.service.delete_account(identity_of(signed_in), PASSWORD, HERE)
    await asyncio.wait_for(model.closed.wait(), PATIENCE_SECONDS)
    page = await services.conversations.page(user_id, PageRequest(10))
    assert page.items == ()
    assert await services.conversations.viewer(user_id) is None
    with pytest.raises(SessionExpired):
        await accounts.service.refresh(signed_in.refresh_token, HERE)
    with pytest.raises(BadCredentials):
        await accounts.login()


async def test_a_purge_removes_a_deleted_user_with_all_their_rows(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    services, user_id = accounts.running.services, signed_in.user.id
    sent = await services.replies.send_message(user_id, SendMessage("Hi"))
    await services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
    await accounts.service.create_api_key(identity_of(signed_in), "robot", None)
    await accounts.service.delete_account(identity_of(signed_in), PASSWORD, HERE)
    async with accounts.running.storage.write() as work:
        assert await work.conversations.purge(accounts.clock.now() - timedelta(days=30)) == 1
        assert await work.users.purge() == 1
        await work.commit()
    for table in (conversations, sessions, refresh_tokens):
        assert await accounts.rows(table) == 0
    assert await accounts.rows(users) == 1


async def test_the_address_of_a_deleted_account_may_register_again_and_finds_nothing(accounts: Accounts) -> None:
    first = await accounts.register()
    services = accounts.running.services
    sent = await services.replies.send_message(first.user.id, SendMessage("Hi"))
    await services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
    await accounts.service.delete_account(identity_of(first), PASSWORD, HERE)
    second = await accounts.register()
    assert second.user.id != first.user.id
    assert (await services.conversations.page(second.user.id, PageRequest(10))).items == ()


async def test_a_deleted_user_cannot_do_anything_with_what_is_left_of_their_identity(accounts: Accounts) -> None:
    signed_in = await accounts.register()
    await accounts.service.delete_account(identity_of(signed_in), PASSWORD, HERE)
    async with refused(ErrorCode.SESSION_EXPIRED, "refreshToken"):
        await accounts.service.change_password(identity_of(signed_in), PASSWORD, OTHER, HERE)
    assert await accounts.service.api_keys(signed_in.user.id) == []
