"""Accounts in use, without HTTP: the service on real SQLite with a quick hasher, and a clock that can be moved."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from domain.account_service import AccountPolicy, AccountService, SignedIn
from domain.accounts import AuthMethod, Claims, Client, Identity
from domain.errors import (
    BadCredentials,
    DomainError,
    ErrorCode,
    RateLimited,
)
from domain.user_administration import UserAdministration
from persistence.notifier import LocalNotifier
from persistence.tables import rates
from tertulia.services import Running, TimeOrderedIds, open_services
from tests.doubles import QuickHasher, ScriptedModel, WordCounter
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


@asynccontextmanager
async def refused(code: ErrorCode, *path: str) -> AsyncIterator[None]:
    with pytest.raises(DomainError) as caught:
        yield
    assert (caught.value.code, tuple(caught.value.path)) == (code, path)
