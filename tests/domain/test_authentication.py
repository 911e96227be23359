"""Who a bearer token is, on real SQLite: sessions, keys and users of a provider, strangers, and when it ends."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from domain import authentication
from domain.accounts import LOCAL_USER_ID, ApiKey, AuthMethod, Claims, Identity, Session, User, digest
from domain.authentication import LOCAL, REVOKED, SIGN_IN, WRONG_KEY, Authenticator, Watch
from domain.errors import RateLimited, Unauthenticated, Unavailable
from persistence import schema
from persistence.database import Database
from persistence.tables import rates, users
from persistence.unit_of_work import SqlStorage
from tertulia.services import TimeOrderedIds
from tests.doubles import RecordingTelemetry

ISSUER = "https://id.example"
ADA = User("user_ada", "Ada", datetime(2026, 1, 1, tzinfo=UTC), "ada@example.org")
KEY = "tk_0123456789"
A_DAY = timedelta(days=1)


class MovableClock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at


class KnownTokens:
    """A TokenReader of what it was given."""

    def __init__(self) -> None:
        self.claims: dict[str, Claims] = {}
        self.away = False

    async def read(self, token: str) -> Claims:
        if self.away:
            raise Unavailable("The keys are away.")
        if token not in self.claims:
            raise Unauthenticated("The access token is not valid; sign in again.")
        return self.claims[token]


@dataclass
class Door:
    database: Database
    clock: MovableClock = field(default_factory=MovableClock)
    tokens: KnownTokens = field(default_factory=KnownTokens)

    def __post_init__(self) -> None:
        self.storage = SqlStorage(self.database, self.clock)
        self.authenticator = self.admitting(None)

    def admitting(self, strangers: int | None) -> Authenticator:
        return Authenticator(self.storage, self.clock, TimeOrderedIds(), self.tokens, strangers)

    @property
    def soon(self) -> datetime:
        return self.clock.at + timedelta(minutes=15)

    async def signed_in(self, session_id: str = "ses_1", expires_in: timedelta = A_DAY) -> Identity:
        """Ada has a session; its access token is its id."""
        now = self.clock.now()
        session = Session(session_id, ADA.id, None, now, now, now + expires_in)
        async with self.storage.write() as work:
            await work.sessions.add(session, digest(session_id))
            await work.commit()
        self.tokens.claims[session_id] = Claims(ADA.id, self.soon, session_id)
        return Identity(ADA.id, AuthMethod.PASSWORD, session_id, self.soon)

    async def sign_out(self, session_id: str = "ses_1") -> None:
        async with self.storage.write() as work:
            await work.sessions.revoke(ADA.id, session_id)
            await work.commit()

    async def key(self, expires_at: datetime | None = None) -> ApiKey:
        key = ApiKey("key_1", ADA.id, "robot", KEY[:10], self.clock.now(), expires_at=expires_at)
        async with self.storage.write() as work:
            await work.api_keys.add(key, digest(KEY))
            await work.commit()
        return key

    async def revoke_key(self) -> None:
        async with self.storage.write() as work:
            await work.api_keys.revoke(ADA.id, "key_1")
            await work.commit()

    async def last_used(self) -> datetime | None:
        async with self.storage.read() as work:
            (key,) = await work.api_keys.of_user(ADA.id)
        return key.last_used_at

    async def delete_ada(self) -> None:
        async with self.storage.write() as work:
            await work.users.delete(ADA.id)
            await work.commit()

    def comes_from_provider(self, token: str = "theirs", subject: str = "42", **more: str) -> None:
        self.tokens.claims[token] = Claims(subject, self.soon, issuer=ISSUER, **more)

    async def refused(self, token: str | None) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.authenticator.identify(token)
        return caught.value.message

    async def known(self) -> list[User]:
        async with self.storage.read() as work:
            return [user for user in await work.users.page(None, 100) if user.id not in (LOCAL_USER_ID, ADA.id)]


@pytest.fixture(scope="session")
def migrated() -> list[Path]:
    """An empty database, once somebody has made it."""
    return []


async def made_in(folder: Path) -> Path:
    database = Database(f"sqlite:///{folder}/migrated.db")
    await schema.upgrade(database)
    await database.close()
    return folder / "migrated.db"


@pytest.fixture
async def door(tmp_path: Path, migrated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    if not migrated:
        migrated.append(await made_in(tmp_path_factory.mktemp("door")))
    shutil.copy(migrated[0], tmp_path / "door.db")
    database = Database(f"sqlite:///{tmp_path}/door.db")
    made = Door(database)
    async with made.storage.write() as work:
        await work.users.add(ADA, "hash")
        await work.commit()
    yield made
    await database.close()


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


# ── the watch ──


@dataclass
class Watched:
    watch: Watch
    telemetry: RecordingTelemetry

    @property
    def left_behind(self) -> dict[Identity, set[Callable[[], object]]]:
        return self.watch._ends


@pytest.fixture
async def watched(door: Door, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """Looks as often as it can."""
    monkeypatch.setattr(authentication, "LOOK_SECONDS", 0.001)
    async with watching(door) as made:
        yield made


@asynccontextmanager
async def watching(door: Door) -> AsyncIterator[Watched]:
    telemetry = RecordingTelemetry()
    watch = Watch(door.authenticator, door.clock, telemetry)
    running = asyncio.create_task(watch.run())
    yield Watched(watch, telemetry)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def ended(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


async def test_a_stream_ends_when_its_token_expires(door: Door, watched: Watched) -> None:
    over = asyncio.Event()
    identity = replace(await door.signed_in(), expires_at=door.clock.at + timedelta(milliseconds=20))
    with watched.watch.over(identity, over.set):
        await ended(over)
    assert watched.left_behind == {}


async def test_a_stream_whose_token_has_expired_before_it_began_ends_at_once(door: Door, watched: Watched) -> None:
    over = asyncio.Event()
    with watched.watch.over(Identity("user_1", AuthMethod.OIDC, None, door.clock.at - A_DAY), over.set):
        await ended(over)


async def test_every_stream_of_what_was_revoked_ends_and_no_other(door: Door, watched: Watched) -> None:
    await door.key()
    session, key = await door.signed_in(), await door.authenticator.identify(KEY)
    first, second, machine = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with (
        watched.watch.over(session, first.set),
        watched.watch.over(session, second.set),
        watched.watch.over(key, machine.set),
    ):
        await door.sign_out()
        await asyncio.gather(ended(first), ended(second))
        assert not machine.is_set()
        await door.revoke_key()
        await ended(machine)
    assert watched.left_behind == {}


async def test_a_stream_that_is_left_is_not_ended_and_nothing_of_it_stays(door: Door, watched: Watched) -> None:
    identity = await door.signed_in()
    over: list[str] = []
    with watched.watch.over(identity, lambda: over.append("outer")):
        with watched.watch.over(identity, lambda: over.append("inner")):
            pass
        assert len(watched.left_behind[identity]) == 1
    assert watched.left_behind == {}
    await door.sign_out()
    assert over == []


@pytest.mark.parametrize("identity", [None, LOCAL])
def test_nobody_and_the_local_user_are_not_watched(identity: Identity | None, door: Door) -> None:
    watch = Watch(door.authenticator, door.clock, RecordingTelemetry())
    with watch.over(identity, lambda: None):
        assert watch._ends == {}


async def test_a_database_that_is_away_ends_no_stream_and_is_looked_at_again(
    door: Door, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, over = await door.signed_in(), asyncio.Event()
    failed = asyncio.Event()

    def work_failed(error: Exception) -> None:
        assert isinstance(error, Unavailable)
        failed.set()

    monkeypatch.setattr(watched.telemetry, "work_failed", work_failed)
    with watched.watch.over(identity, over.set):
        with monkeypatch.context() as away:
            away.setattr(door.storage, "_database", Database("sqlite:////nowhere/at/all.db"))
            await ended(failed)
            assert not over.is_set()
        await door.sign_out()
        await ended(over)


async def test_a_user_who_is_deleted_loses_their_streams(door: Door, watched: Watched) -> None:
    over = asyncio.Event()
    with watched.watch.over(await door.signed_in(), over.set):
        await door.delete_ada()
        await ended(over)


async def test_nobody_is_made_a_user_by_a_token_that_does_not_hold(door: Door) -> None:
    await door.refused("theirs")
    async with door.database.connect(writing=False) as connection:
        assert len((await connection.execute(select(users))).all()) == 2
