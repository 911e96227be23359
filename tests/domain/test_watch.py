"""Watch, on real SQLite: streams end with what their readers were let in by, and nothing is left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from domain import authentication
from domain.accounts import AuthMethod, Identity
from domain.authentication import LOCAL, Watch
from domain.errors import Unavailable
from persistence.database import Database
from tests.domain.door import A_DAY, KEY, Door
from tests.doubles import RecordingTelemetry
from tests.patience import PATIENCE_SECONDS

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
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)


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
