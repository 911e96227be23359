"""The contract of Sessions, on every database.

Expiry goes by the database's clock, so instants are near the present.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from domain.account_storage import RefreshToken
from domain.accounts import Session
from persistence.tables import refresh_tokens, sessions
from tests.contracts.storing import ME, Shelf, new_id

NOW = datetime.now(UTC).replace(microsecond=7)
LATER, LATEST = NOW + timedelta(days=30), NOW + timedelta(days=31)
OVER = NOW - timedelta(seconds=1)


def a_session(**changes: Any) -> Session:
    return replace(Session(new_id("sess"), ME, "Firefox 🦊", NOW, NOW, LATER), **changes)


async def signed_in(shelf: Shelf, token: str = "first", **changes: Any) -> Session:
    session = a_session(**changes)
    async with shelf.storage.write() as work:
        await work.sessions.add(session, token)
        await work.commit()
    return session


async def by_token(shelf: Shelf, token: str) -> RefreshToken | None:
    async with shelf.storage.write() as work:
        return await work.sessions.by_token(token)


async def refresh(shelf: Shelf, token: str, new: str, at: datetime = NOW, expires_at: datetime = LATER) -> bool:
    """Whether this was the first use of the token."""
    async with shelf.storage.write() as work:
        found = await work.sessions.by_token(token)
        assert found is not None
        await work.sessions.rotate(found, new, at, expires_at)
        await work.commit()
    return found.used_at is None


async def alive(shelf: Shelf, *session_ids: str) -> set[str]:
    async with shelf.storage.peek() as work:
        return await work.sessions.alive(session_ids)


async def of_user(shelf: Shelf, user_id: str = ME) -> list[Session]:
    async with shelf.storage.read() as work:
        return await work.sessions.of_user(user_id)


async def revoke(shelf: Shelf, user_id: str, session_id: str) -> bool:
    async with shelf.storage.write() as work:
        revoked = await work.sessions.revoke(user_id, session_id)
        await work.commit()
    return revoked


async def stored(shelf: Shelf) -> tuple[int, int]:
    """How many rows of sessions and of tokens there are, expired or not."""
    counts = [select(func.count()).select_from(table) for table in (sessions, refresh_tokens)]
    async with shelf.database.connect(writing=False) as connection:
        found = [int((await connection.execute(query)).scalar_one()) for query in counts]
    return found[0], found[1]


async def test_a_session_is_found_by_its_token_as_it_was_added(shelf: Shelf) -> None:
    session = await signed_in(shelf)
    assert await by_token(shelf, "first") == RefreshToken("first", session, None)
    assert await by_token(shelf, "other") is None


async def test_a_token_is_not_shown(shelf: Shelf) -> None:
    await signed_in(shelf, "very secret")
    assert "very secret" not in repr(await by_token(shelf, "very secret"))


async def test_a_users_sessions_are_listed_last_seen_first(shelf: Shelf) -> None:
    other = await shelf.user()
    await signed_in(shelf, "other", user_id=other)
    early = await signed_in(shelf, "1", last_seen_at=NOW - timedelta(days=2))
    newest = await signed_in(shelf, "2", last_seen_at=NOW)
    late = await signed_in(shelf, "3", last_seen_at=NOW - timedelta(days=1), user_agent=None)
    assert await of_user(shelf) == [newest, late, early]


async def test_a_session_that_has_expired_is_found_by_nothing(shelf: Shelf) -> None:
    session = await signed_in(shelf, expires_at=OVER)
    assert await by_token(shelf, "first") is None
    assert await alive(shelf, session.id) == set()
    assert await of_user(shelf) == []


async def test_alive_are_those_that_can_still_be_used(shelf: Shelf) -> None:
    usable, expired = await signed_in(shelf, "1"), await signed_in(shelf, "2", expires_at=OVER)
    revoked = await signed_in(shelf, "3")
    await revoke(shelf, ME, revoked.id)
    assert await alive(shelf, usable.id, expired.id, revoked.id, "sess_\0", "") == {usable.id}
    assert await alive(shelf) == set()


async def test_a_session_begun_while_its_user_was_deleted_cannot_be_used(shelf: Shelf) -> None:
    user_id = await shelf.user()
    session = a_session(user_id=user_id)
    async with shelf.storage.write() as work:
        await work.users.delete(user_id)
        await work.sessions.add(session, "first")
        await work.commit()
    assert await alive(shelf, session.id) == set()
    assert await by_token(shelf, "first") is None


# ── rotation ──


async def test_a_refresh_marks_the_token_and_gives_another_of_the_same_session(shelf: Shelf) -> None:
    session = await signed_in(shelf)
    at = NOW + timedelta(days=1)
    assert await refresh(shelf, "first", "second", at, LATEST)
    seen = replace(session, last_seen_at=at, expires_at=LATEST)
    assert await by_token(shelf, "first") == RefreshToken("first", seen, at)
    assert await by_token(shelf, "second") == RefreshToken("second", seen, None)


async def test_a_token_that_is_used_again_keeps_the_instant_of_its_first_use(shelf: Shelf) -> None:
    await signed_in(shelf)
    assert await refresh(shelf, "first", "second")
    assert not await refresh(shelf, "first", "third", NOW + timedelta(seconds=5))
    found = await by_token(shelf, "first")
    assert found is not None
    assert found.used_at == NOW
    assert await by_token(shelf, "third") is not None


async def with_an_expired_token(shelf: Shelf) -> Session:
    """A session that goes on with another token, beside one that has expired."""
    session = await signed_in(shelf)
    await refresh(shelf, "first", "over", expires_at=OVER)
    async with shelf.storage.write() as work:
        await work.sessions.rotate(RefreshToken("over", session, None), "third", NOW, LATEST)
        await work.commit()
    return session


async def test_a_token_that_has_expired_is_not_found_though_its_session_goes_on(shelf: Shelf) -> None:
    session = await with_an_expired_token(shelf)
    assert await by_token(shelf, "over") is None
    assert await by_token(shelf, "third") is not None
    assert await alive(shelf, session.id) == {session.id}


async def test_of_many_refreshes_of_one_token_at_once_one_is_the_first(shelf: Shelf) -> None:
    await signed_in(shelf)
    firsts = await asyncio.gather(*(refresh(shelf, "first", f"token {n}") for n in range(8)))
    assert firsts.count(True) == 1


async def test_whoever_refreshes_waits_for_another_refresh_of_the_session_and_sees_what_it_did(shelf: Shelf) -> None:
    await signed_in(shelf)
    async with shelf.storage.write() as work:
        found = await work.sessions.by_token("first")
        assert found is not None
        waiting = asyncio.create_task(refresh(shelf, "first", "third"))
        await shelf.somebody_waits()
        assert not waiting.done()
        await work.sessions.rotate(found, "second", NOW, LATER)
        await work.commit()
    assert not await waiting


async def test_whoever_refreshes_while_the_session_is_revoked_finds_nothing(shelf: Shelf) -> None:
    session = await signed_in(shelf)
    async with shelf.storage.write() as work:
        await work.sessions.revoke(ME, session.id)
        waiting = asyncio.create_task(by_token(shelf, "first"))
        await shelf.somebody_waits()
        await work.commit()
    assert await waiting is None


# ── revoking ──


async def test_a_revoked_session_is_gone_with_all_its_tokens(shelf: Shelf) -> None:
    session = await signed_in(shelf)
    await refresh(shelf, "first", "second")
    assert await revoke(shelf, ME, session.id)
    assert [await by_token(shelf, token) for token in ("first", "second")] == [None, None]
    assert await stored(shelf) == (0, 0)


async def test_nobody_revokes_what_is_not_theirs_or_not_there(shelf: Shelf) -> None:
    session = await signed_in(shelf)
    assert not await revoke(shelf, await shelf.user(), session.id)
    assert not await revoke(shelf, ME, "sess_absent")
    assert await alive(shelf, session.id) == {session.id}


async def test_all_sessions_of_a_user_are_revoked_and_no_others(shelf: Shelf) -> None:
    other = await shelf.user()
    mine = [(await signed_in(shelf, str(n))).id for n in range(3)]
    theirs = (await signed_in(shelf, "theirs", user_id=other)).id
    async with shelf.storage.write() as work:
        await work.sessions.revoke_all(ME)
        await work.commit()
    assert await alive(shelf, *mine, theirs) == {theirs}


async def test_refreshing_revoking_and_sweeping_at_once_do_not_wait_in_a_circle(shelf: Shelf) -> None:
    async def revoke_all() -> None:
        async with shelf.storage.write() as work:
            await work.sessions.revoke_all(ME)
            await work.commit()

    async def try_refresh(token: str) -> None:
        async with shelf.storage.write() as work:
            if (found := await work.sessions.by_token(token)) is not None:
                await work.sessions.rotate(found, token + " next", NOW, LATER)
                await work.commit()

    for n in range(20):
        await signed_in(shelf, str(n), expires_at=LATER if n % 2 else OVER)
    refreshes = [try_refresh(str(n)) for n in range(20)]
    await asyncio.gather(*refreshes, *(revoke_all() for _ in range(3)), *(sweep(shelf) for _ in range(3)))
    assert await stored(shelf) == (0, 0)


# ── sweeping ──


async def sweep(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.sessions.sweep()
        await work.commit()


async def test_a_sweep_removes_what_has_expired(shelf: Shelf) -> None:
    await signed_in(shelf, "over", expires_at=OVER)
    await signed_in(shelf, "first", expires_at=OVER + timedelta(hours=1))
    session = await signed_in(shelf, "kept")
    await sweep(shelf)
    assert await stored(shelf) == (2, 2)
    assert await alive(shelf, session.id) == {session.id}


async def test_a_sweep_removes_expired_tokens_of_a_session_that_goes_on(shelf: Shelf) -> None:
    await with_an_expired_token(shelf)
    await sweep(shelf)
    assert await stored(shelf) == (1, 2)
