"""Where bearer tokens are shown: an Authenticator on real SQLite, with tokens that a test makes up."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from domain.accounts import LOCAL_USER_ID, ApiKey, AuthMethod, Claims, Identity, Session, User, digest
from domain.authentication import Authenticator
from domain.errors import Unauthenticated, Unavailable
from persistence.database import Database
from persistence.unit_of_work import SqlStorage
from tertulia.services import TimeOrderedIds

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
