"""The Protocols of storage for accounts: users, sessions, API keys, how often what was tried, and budgets.

Each method's contract is in its docstring; implemented in `persistence/`. The unit of work they belong to is in
`storage.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Protocol

from domain.accounts import ApiKey, Session, User
from domain.replies import Lease


@dataclass(frozen=True, slots=True)
class Account:
    """A user and what their password is checked against; None for those of an identity provider."""

    user: User
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    hash: str = field(repr=False)
    session: Session
    used_at: datetime | None


class Users(Protocol):
    """A user who was deleted is found by nothing."""

    async def get(self, user_id: str) -> User | None: ...

    async def by_email(self, email: str) -> Account | None:
        """By the normalised address."""
        ...

    async def account(self, user_id: str, *, lock: bool = False) -> Account | None:
        """`lock` holds it until the end of the unit: its password stays as it was read."""
        ...

    async def page(self, after: str | None, limit: int) -> list[User]:
        """In the order of ids, which is that of creation."""
        ...

    async def add(self, user: User, password_hash: str | None) -> bool:
        """False when the address, or the subject at its issuer, is taken; then nothing was stored."""
        ...

    async def by_subject(self, issuer: str, subject: str) -> User | None: ...

    async def set_password(self, user_id: str, password_hash: str) -> None: ...

    async def delete(self, user_id: str) -> None:
        """From now on nobody finds the user, their sessions, API keys or conversations; a purge removes the rows.

        Address and password are gone at once. Live replies are for the caller to stop before.
        """
        ...

    async def purge(self) -> int:
        """Remove deleted users whose conversations are all purged. Returns how many."""
        ...


class Sessions(Protocol):
    """Sign-ins. A session that has expired is found by nothing."""

    async def add(self, session: Session, token_hash: str) -> None:
        """With its first refresh token, which expires with it."""
        ...

    async def of_user(self, user_id: str) -> list[Session]:
        """Last seen first."""
        ...

    async def alive(self, session_ids: Sequence[str]) -> set[str]:
        """Which of them can still be used: not revoked, not expired, of a user who is there."""
        ...

    async def by_token(self, token_hash: str) -> RefreshToken | None:
        """A refresh token that has not expired, used or not, and its session, held until the end of the unit."""
        ...

    async def rotate(self, used: RefreshToken, token_hash: str, at: datetime, expires_at: datetime) -> None:
        """Mark the token as used, unless it was before, and add another to its session, which is seen now."""
        ...

    async def revoke(self, user_id: str, session_id: str) -> bool:
        """Remove the user's session with its tokens; False when there was none."""
        ...

    async def revoke_all(self, user_id: str) -> None: ...

    async def sweep(self) -> None:
        """Remove what has expired."""
        ...


class ApiKeys(Protocol):
    """Keys for machines. One that has expired is found by `of_user` alone."""

    async def add(self, key: ApiKey, key_hash: str) -> None: ...

    async def of_user(self, user_id: str) -> list[ApiKey]:
        """Newest first."""
        ...

    async def by_hash(self, key_hash: str) -> ApiKey | None: ...

    async def alive(self, key_ids: Sequence[str]) -> set[str]:
        """Which of them can still be used."""
        ...

    async def touch(self, key_id: str, at: datetime) -> None:
        """Remember that it was used."""
        ...

    async def revoke(self, user_id: str, key_id: str) -> bool:
        """Remove the user's key; False when there was none."""
        ...


class Rates(Protocol):
    """How often something happened, counted in a moving window by the database's clock, for all processes.

    The counter of a key is held until the end of the unit, so that hits of several at once are counted one by one;
    what is rolled back was not counted. It must be the first that a unit holds, but for an idempotency key.
    """

    async def hit(self, key: str, limit: int, window: timedelta) -> float | None:
        """Count one more, if there were fewer than `limit` in the last `window`; else the seconds until then."""
        ...

    async def count(self, key: str, window: timedelta) -> tuple[int, datetime | None]:
        """How many there were in the last `window`, and when the oldest of them leaves it; holds nothing."""
        ...

    async def hold(self, key: str) -> None:
        """Hold the counter without counting."""
        ...

    async def forgive(self, key: str) -> None:
        """Take the newest hit back."""
        ...

    async def reset(self, key: str) -> None:
        """Take all hits back."""
        ...

    async def sweep(self) -> None:
        """Remove counters that count nothing any more."""
        ...


@dataclass(frozen=True, slots=True)
class Use:
    """What a user has and has used at one instant, all of it in one snapshot.

    `live` counts the replies that are queued or streaming, but for those that somebody wants stopped; `reserved` is
    what all of them may still spend. Days and months are those of UTC by the clock of all processes.
    """

    live: int
    reserved: int
    tokens_today: int
    tokens_this_month: int
    today: date


class Budgets(Protocol):
    """Tokens that users have spent, and those that their live replies have reserved.

    Whatever stores the end of an attempt stores in the same transaction what it spent; a reply that goes back into
    the queue keeps what is left of its reservation.
    """

    async def use(self, user_id: str, without: str | None = None) -> Use:
        """`without` is a reply whose own reservation is left out."""
        ...

    async def reserve(self, lease: Lease, tokens: int) -> bool:
        """Let the attempt spend so many in all. False when the lease was lost: then nothing was stored."""
        ...
