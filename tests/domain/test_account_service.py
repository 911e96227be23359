"""Accounts in use, on real SQLite: registering, signing in and out, tries, refreshing, passwords, keys, and the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from domain.account_service import MAX_API_KEYS, AccountPolicy, AccountService, SignedIn
from domain.accounts import LOCAL_USER_ID, AuthMethod, Claims, Client, Identity
from domain.conversations import PageRequest
from domain.errors import (
    BadCredentials,
    DomainError,
    EmailTaken,
    ErrorCode,
    InvalidInput,
    NotFound,
    RateLimited,
    SessionExpired,
    Unavailable,
)
from domain.inputs import SendMessage
from domain.user_administration import UserAdministration
from persistence.notifier import LocalNotifier
from persistence.tables import conversations, rates, refresh_tokens, sessions, users
from tertulia.services import Running, TimeOrderedIds, open_services
from tests.doubles import QuickHasher, ScriptedModel, WordCounter, answer
from tests.serving import settings_for

EMAIL, PASSWORD, OTHER = "ada@example.org", "correct horse", "battery staple"
HERE, THERE = Client("192.0.2.1", "Firefox"), Client("192.0.2.2")
WINDOW = timedelta(minutes=15)


class MovableClock:
    """Stands still at the present until a test sets it on."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at


class PlainTokens:
    """A TokenIssuer whose tokens say what they are."""

    def issue(self, claims: Claims) -> str:
        return f"{claims.subject} {claims.session_id} {claims.expires_at:%H:%M}"


@dataclass
class Accounts:
    """The service with stand-ins for what is slow or random, and short ways to what a test does most."""

    running: Running
    notifier: LocalNotifier
    hasher: QuickHasher = field(default_factory=QuickHasher)
    clock: MovableClock = field(default_factory=MovableClock)

    def __post_init__(self) -> None:
        self.service = self.under(AccountPolicy(AuthMethod.PASSWORD, registration_open=True))
        ids = TimeOrderedIds()
        self.administration = UserAdministration(self.running.storage, self.notifier, self.hasher, self.clock, ids)

    def under(self, policy: AccountPolicy) -> AccountService:
        storage, ids = self.running.storage, TimeOrderedIds()
        return AccountService(storage, self.notifier, self.hasher, PlainTokens(), self.clock, ids, policy)

    async def register(self, email: str = EMAIL, name: str | None = "Ada") -> SignedIn:
        return await self.service.register(email, PASSWORD, name, HERE)

    async def login(self, password: str = PASSWORD, email: str = EMAIL, client: Client = HERE) -> SignedIn:
        return await self.service.login(email, password, client)

    async def wrong(self, times: int, email: str = EMAIL, client: Client = HERE) -> None:
        for _ in range(times):
            with pytest.raises(BadCredentials):
                await self.login("wrong", email, client)

    async def locked(self, email: str = EMAIL, client: Client = HERE) -> float:
        """Seconds until the next try."""
        with pytest.raises(RateLimited) as caught:
            await self.login(email=email, client=client)
        return caught.value.retry_after

    async def session_ids(self, signed_in: SignedIn) -> list[str]:
        return [session.id for session in await self.service.sessions(signed_in.user.id)]

    async def age_tries(self, by: timedelta) -> None:
        """As if so much time had passed: windows go by the database's clock."""
        async with self.running.database.connect(writing=True) as connection:
            for row in (await connection.execute(select(rates))).all():
                older = [hit - by.total_seconds() for hit in row.hits]
                await connection.execute(update(rates).where(rates.c.key == row.key).values(hits=older))
            await connection.commit()

    async def rows(self, table: Any) -> int:
        async with self.running.database.connect(writing=False) as connection:
            return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


def identity_of(signed_in: SignedIn) -> Identity:
    return Identity(signed_in.user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)


def machine_of(signed_in: SignedIn) -> Identity:
    return Identity(signed_in.user.id, AuthMethod.API_KEY, "key_1")


@asynccontextmanager
async def accounts_in(folder: Path, model: ScriptedModel) -> AsyncIterator[Accounts]:
    notifier = LocalNotifier()
    settings = settings_for(folder, auth="password", sends_per_minute=0)
    async with open_services(settings, model=model, tokens=WordCounter(), notifier=notifier) as running:
        yield Accounts(running, notifier)


@pytest.fixture
async def accounts(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Accounts]:
    async with accounts_in(tmp_path, model) as made:
        yield made


@asynccontextmanager
async def refused(code: ErrorCode, *path: str) -> AsyncIterator[None]:
    with pytest.raises(DomainError) as caught:
        yield
    assert (caught.value.code, tuple(caught.value.path)) == (code, path)


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


async def test_signing_out_again_or_by_nobody_or_by_a_machine_does_nothing(accounts: Accounts) -> None:
    first, second = await accounts.register(), await accounts.login()
    for _ in range(2):
        await accounts.service.logout(None, first.refresh_token, everywhere=True)
    assert await accounts.session_ids(second) == []
    third = await accounts.login()
    for identity in (None, machine_of(third), Identity(LOCAL_USER_ID, AuthMethod.NONE)):
        await accounts.service.logout(identity, None, everywhere=True)
    await accounts.service.logout(identity_of(third), "unknown", everywhere=True)
    assert await accounts.session_ids(third) == [third.session_id]


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
    await asyncio.wait_for(model.closed.wait(), 10)
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
    await services.stream.settled(sent.reply_id, 10)
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
    await services.stream.settled(sent.reply_id, 10)
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


# ── operators ──


async def test_an_operator_makes_users_although_registration_is_closed(accounts: Accounts) -> None:
    user = await accounts.administration.create_user(" Ada@example.org", PASSWORD, None)
    closed = accounts.under(AccountPolicy(AuthMethod.PASSWORD))
    assert (await closed.login(EMAIL, PASSWORD, HERE)).user == user
    with pytest.raises(EmailTaken):
        await accounts.administration.create_user(EMAIL, PASSWORD, None)
    with pytest.raises(InvalidInput):
        await accounts.administration.create_user("grace@example.org", "short", None)
    listed = await accounts.administration.page(None, 10)
    assert [listed_user.id for listed_user in listed] == [LOCAL_USER_ID, user.id]
    assert await accounts.administration.page(LOCAL_USER_ID, 1) == [user]


async def test_adopted_conversations_are_their_new_users_alone(accounts: Accounts) -> None:
    services = accounts.running.services
    sent = await services.replies.send_message(LOCAL_USER_ID, SendMessage("Hi"))
    await services.stream.settled(sent.reply_id, 10)
    user = (await accounts.register()).user
    assert await accounts.administration.adopt(LOCAL_USER_ID, " ADA@example.org") == (user, 1)
    assert await accounts.administration.adopt(LOCAL_USER_ID, user.id) == (user, 0)
    assert len((await services.conversations.page(user.id, PageRequest(10))).items) == 1
    assert (await services.conversations.page(LOCAL_USER_ID, PageRequest(10))).items == ()
    with pytest.raises(NotFound):
        await services.conversations.message(LOCAL_USER_ID, sent.reply_id)


@pytest.mark.parametrize("known_as", ["nobody@example.org", "user_1", ""])
async def test_an_operator_who_names_nobody_is_told_so(accounts: Accounts, known_as: str) -> None:
    with pytest.raises(InvalidInput, match=f"There is no user '{known_as}'"):
        await accounts.administration.adopt(LOCAL_USER_ID, known_as)
    with pytest.raises(InvalidInput):
        await accounts.administration.set_password(known_as, OTHER)
