"""How a bearer token becomes an Identity, and when that ends.

A token is an access token or an API key. A session or key that was revoked holds no longer, whatever its token says.
Nothing here knows by which transport a token comes, or what its bearer asks for.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta

from domain.accounts import API_KEY_PREFIX, LOCAL_USER_ID, AuthMethod, Claims, Identity, User, digest
from domain.errors import DataRefused, RateLimited, StorageError, Unauthenticated, Unavailable
from domain.ports import Clock, Ids, Telemetry, TokenReader
from domain.storage import Storage

LOCAL = Identity(LOCAL_USER_ID, AuthMethod.NONE)
SIGN_IN = "Sign in first: this needs `Authorization: Bearer <access token or API key>`."
REVOKED = "The session has ended; sign in again."
WRONG_KEY = "This is no API key, or it has expired or was revoked."
TOUCHED_EVERY = timedelta(minutes=1)
LOOK_SECONDS = 3.0
"""An identity that was revoked loses its streams within this time and a moment."""
LOOKED_AT_ONCE = 500
MINUTE = timedelta(minutes=1)


class Authenticator:
    """Identifies callers. Without `tokens` there are no accounts: everybody is the local user."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        ids: Ids,
        tokens: TokenReader | None,
        anonymous_per_minute: int | None = None,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._ids = ids
        self._tokens = tokens
        self._anonymous_per_minute = anonymous_per_minute

    async def identify(self, token: str | None) -> Identity:
        """Raises Unauthenticated when the token does not hold, Unavailable when that cannot be told just now."""
        if self._tokens is None:
            return LOCAL
        if token is None:
            raise Unauthenticated(SIGN_IN)
        try:
            return await self._identified(token, self._tokens)
        except DataRefused:
            raise
        except StorageError as error:
            raise Unavailable from error

    async def _identified(self, token: str, tokens: TokenReader) -> Identity:
        if token.startswith(API_KEY_PREFIX):
            return await self._by_key(token)
        claims = await tokens.read(token)
        return await (self._by_session(claims) if claims.issuer is None else self._by_provider(claims, claims.issuer))

    async def valid(self, identities: Collection[Identity]) -> set[Identity]:
        """Those that still hold."""
        now = self._clock.now()
        current = {each for each in identities if each.expires_at is None or each.expires_at > now}
        asked = [each for each in current if each.credential_id is not None]
        alive: set[str] = set()
        for start in range(0, len(asked), LOOKED_AT_ONCE):
            some = asked[start : start + LOOKED_AT_ONCE]
            alive |= await self._alive(some, AuthMethod.PASSWORD) | await self._alive(some, AuthMethod.API_KEY)
        return {each for each in current if each.credential_id is None or each.credential_id in alive}

    async def admit(self, identity: Identity | None, address: str) -> None:
        """Count an operation of somebody who is not known. Raises RateLimited."""
        limit = self._anonymous_per_minute
        if limit is None or not (identity is None or identity is LOCAL):
            return
        async with self._storage.write() as work:
            wait = await work.rates.hit(f"anonymous:{address}", limit, MINUTE)
            await work.commit()
        if wait is not None:
            raise RateLimited("operations from this address", wait)

    async def _alive(self, identities: Collection[Identity], method: AuthMethod) -> set[str]:
        ids = [each.credential_id for each in identities if each.method is method and each.credential_id is not None]
        if not ids:
            return set()
        async with self._storage.peek() as work:
            return await (work.sessions if method is AuthMethod.PASSWORD else work.api_keys).alive(ids)

    async def _by_session(self, claims: Claims) -> Identity:
        identity = Identity(claims.subject, AuthMethod.PASSWORD, claims.session_id, claims.expires_at)
        if not await self._alive([identity], AuthMethod.PASSWORD):
            raise Unauthenticated(REVOKED)
        return identity

    async def _by_key(self, secret: str) -> Identity:
        async with self._storage.peek() as work:
            key = await work.api_keys.by_hash(digest(secret))
        if key is None:
            raise Unauthenticated(WRONG_KEY)
        now = self._clock.now()
        if key.last_used_at is None or now - key.last_used_at > TOUCHED_EVERY:
            async with self._storage.write() as work:
                await work.api_keys.touch(key.id, now)
                await work.commit()
        return Identity(key.user_id, AuthMethod.API_KEY, key.id, key.expires_at)

    async def _by_provider(self, claims: Claims, issuer: str) -> Identity:
        """Who comes for the first time becomes a user; of several first times at once one does."""
        async with self._storage.peek() as work:
            user = await work.users.by_subject(issuer, claims.subject)
        if user is None:
            new = User(
                self._ids.new("user"),
                claims.name or claims.email,
                self._clock.now(),
                issuer=issuer,
                subject=claims.subject,
            )
            async with self._storage.write() as work:
                await work.users.add(new, None)
                user = await work.users.by_subject(issuer, claims.subject)
                await work.commit()
        if user is None:
            raise Unavailable
        return Identity(user.id, AuthMethod.OIDC, None, claims.expires_at)


class Watch:
    """Tells those who hold a stream open for an identity when it ends: its token expires, or it is revoked.

    One look at the database serves all of the process.
    """

    def __init__(self, authenticator: Authenticator, clock: Clock, telemetry: Telemetry) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._telemetry = telemetry
        self._ends: dict[Identity, set[Callable[[], object]]] = {}

    @contextmanager
    def over(self, identity: Identity | None, end: Callable[[], object]) -> Iterator[None]:
        """Have `end` called, at most once, when the identity ends while the context lasts."""
        if identity is None or (identity.expires_at is None and identity.credential_id is None):
            yield
            return
        expiry = None
        if identity.expires_at is not None:
            left = (identity.expires_at - self._clock.now()).total_seconds()
            expiry = asyncio.get_running_loop().call_later(max(0.0, left), self._end, identity)
        self._ends.setdefault(identity, set()).add(end)
        try:
            yield
        finally:
            if expiry is not None:
                expiry.cancel()
            ends = self._ends.get(identity, set())
            ends.discard(end)
            if not ends:
                self._ends.pop(identity, None)

    async def run(self) -> None:
        """Look for what was revoked, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            watched = [each for each in self._ends if each.credential_id is not None]
            if not watched:
                continue
            try:
                valid = await self._authenticator.valid(watched)
            except Exception as error:
                self._telemetry.work_failed(error)
                continue
            for identity in set(watched) - valid:
                self._end(identity)

    def _end(self, identity: Identity) -> None:
        for end in self._ends.pop(identity, set()):
            end()
