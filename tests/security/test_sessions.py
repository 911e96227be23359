"""Refresh tokens in the wrong hands, and in two tabs at once: what ends a session, and what must not.

On both databases. The law of families is tried by any order of what people and thieves do.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.doubles import ScriptedModel
from tests.patience import PATIENCE_SECONDS
from tests.security.people import (
    CHANGE,
    LOGOUT,
    Person,
    code_of,
    guarded,
    log_in,
    own_database,
    ready_socket,
    refreshed,
    register,
)
from tests.serving import Serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


class ShiftedClock:
    """The real time and some more, which tests add."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def later(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clock: ShiftedClock
) -> AsyncIterator[Serving]:
    folder: Path = tmp_path_factory.mktemp("sessions")
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    async with (
        own_database(request.param, folder, postgres) as database,
        guarded(folder, ScriptedModel(), clock=clock, **database) as running,
    ):
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def person(server: Serving) -> Person:
    return await register(server)


async def renewed(server: Serving, token: str) -> tuple[str, str]:
    """A new access and refresh token, which must be had."""
    found = await refreshed(server, token)
    assert isinstance(found, tuple), found
    return found


# ── tokens used twice ──


async def test_a_token_that_is_used_again_ends_its_session_and_no_other(
    server: Serving, person: Person, clock: ShiftedClock
) -> None:
    elsewhere, stranger = await person.log_in(), await register(server)
    access, fresh = await renewed(server, person.refresh)
    async with (
        ready_socket(server.url, access) as newest,
        ready_socket(server.url, person.access) as oldest,
        ready_socket(server.url, elsewhere.access) as other,
    ):
        clock.later(11)
        assert await refreshed(server, person.refresh) == "SESSION_EXPIRED"
        assert await refreshed(server, fresh) == "SESSION_EXPIRED", "also the one that nobody has used"
        assert [await code_of(server, token) for token in (person.access, access)] == ["UNAUTHENTICATED"] * 2
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert [await socket.close_code() for socket in (newest, oldest)] == [4403, 4403]
        await other.subscribe("{ __typename }")
        assert (await other.receive())["type"] == "next"
    for others in (elsewhere, stranger):
        assert await others.code() is None
        await renewed(server, others.refresh)


async def test_the_oldest_token_of_a_long_session_ends_it(server: Serving, person: Person, clock: ShiftedClock) -> None:
    token = person.refresh
    for _ in range(5):
        _, token = await renewed(server, token)
        clock.later(60)
    assert await refreshed(server, person.refresh) == "SESSION_EXPIRED"
    assert await refreshed(server, token) == "SESSION_EXPIRED"


async def test_the_time_of_grace_begins_with_the_first_use(
    server: Serving, person: Person, clock: ShiftedClock
) -> None:
    await renewed(server, person.refresh)
    clock.later(6)
    await renewed(server, person.refresh)
    clock.later(6)
    assert await refreshed(server, person.refresh) == "SESSION_EXPIRED"


@pytest.mark.parametrize("tabs", [2, 8])
async def test_tabs_that_refresh_at_once_all_live_and_all_refresh_again(
    server: Serving, person: Person, clock: ShiftedClock, tabs: int
) -> None:
    for _ in range(3):
        pairs = await asyncio.gather(*(renewed(server, person.refresh) for _ in range(tabs)))
        assert len({refresh for _, refresh in pairs}) == tabs
        assert [await code_of(server, access) for access, _ in pairs] == [None] * tabs
        clock.later(3_600)
        again = await asyncio.gather(*(renewed(server, refresh) for _, refresh in pairs))
        assert [await code_of(server, access) for access, _ in again] == [None] * tabs
        person.access, person.refresh = again[0]
        clock.later(3_600)


async def test_of_a_theft_at_the_same_moment_one_of_both_ends_the_session_later(
    server: Serving, person: Person, clock: ShiftedClock
) -> None:
    """Grace is no way around the rule: whoever uses an old token afterwards ends it for both."""
    (_, mine), (_, stolen) = await asyncio.gather(*(renewed(server, person.refresh) for _ in range(2)))
    clock.later(60)
    _, next_ = await renewed(server, mine)
    await renewed(server, stolen)
    clock.later(60)
    assert await refreshed(server, mine) == "SESSION_EXPIRED"
    assert await refreshed(server, next_) == "SESSION_EXPIRED"


async def test_many_uses_of_an_old_token_at_once_end_the_session_once(
    server: Serving, person: Person, clock: ShiftedClock
) -> None:
    _, fresh = await renewed(server, person.refresh)
    clock.later(60)
    codes = await asyncio.gather(*(refreshed(server, token) for token in [person.refresh, fresh] * 4))
    assert set(codes[0::2]) == {"SESSION_EXPIRED"}
    for code in codes[1::2]:
        if not isinstance(code, str):
            assert await refreshed(server, code[1]) == "SESSION_EXPIRED"


# ── one kind for the other ──


async def test_a_refresh_token_is_no_access_token(server: Serving, person: Person) -> None:
    assert await code_of(server, person.refresh) == "UNAUTHENTICATED"


async def test_an_access_token_and_an_api_key_are_no_refresh_tokens(server: Serving, person: Person) -> None:
    _, key = await person.new_key()
    for token in (person.access, key, "", "x" * 10_000, "\0", "🜏", "' OR '1'='1"):
        assert await refreshed(server, token) == "SESSION_EXPIRED"
    assert await person.code() is None


async def test_a_token_of_another_ends_only_what_it_is_for(server: Serving, person: Person) -> None:
    """Who shows a refresh token has it: it ends its own session, whoever is signed in besides."""
    other = await register(server)
    await other.do(LOGOUT, refreshToken=person.refresh)
    assert await person.code() == "UNAUTHENTICATED"
    assert await other.code() is None


# ── what ends sessions ──


async def test_a_new_password_ends_every_session_but_its_own_new_one(server: Serving, person: Person) -> None:
    elsewhere, stranger = await person.log_in(), await register(server)
    _, key = await person.new_key()
    payload = await person.do(CHANGE, currentPassword=person.password, newPassword="battery staple")
    assert [await each.code() for each in (person, elsewhere)] == ["UNAUTHENTICATED"] * 2
    for token in (person.refresh, elsewhere.refresh):
        assert await refreshed(server, token) == "SESSION_EXPIRED"
    assert [await code_of(server, token) for token in (payload["accessToken"], key)] == [None, None]
    await renewed(server, payload["refreshToken"])
    assert await stranger.code() is None
    assert await (await log_in(server, person.email, "battery staple")).code() is None


async def test_a_refresh_beside_a_new_password_leaves_no_session_of_the_old(server: Serving, person: Person) -> None:
    tabs = [await person.log_in() for _ in range(4)]
    changing = person.do(CHANGE, currentPassword=person.password, newPassword="battery staple")
    payload, *pairs = await asyncio.gather(changing, *(refreshed(server, tab.refresh) for tab in tabs))
    for pair in pairs:
        if not isinstance(pair, str):
            assert await refreshed(server, pair[1]) == "SESSION_EXPIRED"
            assert await code_of(server, pair[0]) == "UNAUTHENTICATED"
    assert len(await Person(server, person.email, person.user_id, payload["accessToken"], "").sessions()) == 1


async def test_logout_ends_one_session_and_everywhere_ends_all(server: Serving, person: Person) -> None:
    second, third, stranger = await person.log_in(), await person.log_in(), await register(server)
    await second.do(LOGOUT)
    assert [await each.code() for each in (person, second, third)] == [None, "UNAUTHENTICATED", None]
    assert await refreshed(server, second.refresh) == "SESSION_EXPIRED"
    await third.do(LOGOUT, everywhere=True)
    assert [await each.code() for each in (person, third, stranger)] == ["UNAUTHENTICATED"] * 2 + [None]


async def test_a_logout_by_an_api_key_ends_no_session(server: Serving, person: Person) -> None:
    _, key = await person.new_key()
    keyed = Person(server, person.email, person.user_id, key, "")
    (error,) = (await keyed.attempt(LOGOUT, everywhere=True))["errors"]
    assert [error["code"], await person.code(), await keyed.code()] == ["FORBIDDEN", None, None]


async def test_a_logout_by_a_token_that_does_not_hold_says_so(server: Serving, person: Person) -> None:
    nobody = Person(server, person.email, person.user_id, f"{person.access}x", "")
    (error,) = (await nobody.attempt(LOGOUT))["errors"]
    assert [error["code"], await person.code()] == ["UNAUTHENTICATED", None]
