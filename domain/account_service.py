"""What people do with their accounts: register, sign in and out, change what they are known by, make API keys.

A password is tried at most so often per account, whoever tries and by whatever way, and a refresh token is used once:
using it again ends its session, but for a moment in which two tabs may do it at once. Nothing here knows how tokens
are carried.
"""

import secrets
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime, timedelta

from domain.account_storage import Account, RefreshToken
from domain.accounts import (
    ACCESS_LIFETIME,
    API_KEY_PREFIX,
    REFRESH_GRACE,
    REFRESH_LIFETIME,
    ApiKey,
    AuthMethod,
    Claims,
    Client,
    Identity,
    Session,
    User,
    check_name,
    check_password,
    digest,
    new_user,
    normalised_email,
    normalised_password,
)
from domain.errors import (
    AccessDenied,
    BadCredentials,
    EmailTaken,
    ErrorCode,
    InvalidInput,
    NotFound,
    RateLimited,
    SessionExpired,
    Unavailable,
)
from domain.ports import Clock, Ids, Notifier, PasswordHasher, TokenIssuer
from domain.storage import Storage, UnitOfWork
from domain.topics import QUEUE, STOP, reply_topic, user_topic

TRIES = 10
TRIES_WINDOW = timedelta(minutes=15)
REGISTRATIONS_WINDOW = timedelta(hours=1)
MAX_API_KEYS = 50
MAX_SESSIONS = 100
"""Of a user; a further one ends the one that was not seen for longest."""
MAX_USER_AGENT = 200
NEVER = datetime(MAXYEAR, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AccountPolicy:
    """`method` is that of the server; NONE and OIDC have no passwords. Limits are per client address; None is none."""

    method: AuthMethod
    registration_open: bool = False
    logins_per_address: int | None = None
    """In 15 minutes."""
    registrations_per_address: int | None = None
    """In an hour."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a client needs to go on: who it is, and its tokens, which are shown this once."""

    user: User
    session_id: str
    access_token: str = field(repr=False)
    access_expires_at: datetime
    refresh_token: str = field(repr=False)
    refresh_expires_at: datetime


class AccountService:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        hasher: PasswordHasher,
        issuer: TokenIssuer | None,
        clock: Clock,
        ids: Ids,
        policy: AccountPolicy,
    ) -> None:
        self._storage = storage
        self._notifier = notifier
        self._hasher = hasher
        self._issuer = issuer
        self._clock = clock
        self._ids = ids
        self.policy = policy

    # ── signing in and out ──

    async def register(self, email: str, password: str, name: str | None, client: Client) -> SignedIn:
        """Make a user and sign them in. Atomic. Raises AccessDenied when registration is closed, EmailTaken."""
        self._needs_passwords()
        if not self.policy.registration_open:
            raise AccessDenied(
                ErrorCode.REGISTRATION_CLOSED, "Registration is closed; ask whoever runs this server for an account."
            )
        user, password = new_user(self._ids.new("user"), email, password, name, self._clock.now())
        async with self._storage.write() as work:
            limit = self.policy.registrations_per_address
            wait = await _hit(work, f"register:{client.address}", limit, REGISTRATIONS_WINDOW)
            await work.commit()
        if wait is not None:
            raise RateLimited("registrations from this address", wait)
        hashed = await self._hasher.hash(password)
        async with self._storage.write() as work:
            if not await work.users.add(user, hashed):
                raise EmailTaken
            signed_in = await self._sign_in(work, user, client)
            await work.commit()
        return signed_in

    async def login(self, email: str, password: str, client: Client) -> SignedIn:
        """Begin a session. Raises RateLimited, or BAD_CREDENTIALS without saying which of the two was wrong."""
        self._needs_passwords()
        email = normalised_email(email)
        async with self._storage.read() as work:
            account = await work.users.by_email(email)
        await self._verify(email, account, password, client)
        assert account is not None, "no password is right for a user who is not there"
        hashed = account.password_hash or ""
        outdated = self._hasher.is_outdated(hashed)
        renewed = await self._hasher.hash(normalised_password(password)) if outdated else None
        async with self._storage.write() as work:
            await _unchanged(work, account)
            if renewed is not None:
                await work.users.set_password(account.user.id, renewed)
            signed_in = await self._sign_in(work, account.user, client)
            await work.commit()
        return signed_in

    async def refresh(self, token: str, client: Client) -> SignedIn:
        """A new pair of tokens for a refresh token. Atomic.

        One that was used before ends its session, as it may be stolen; but for REFRESH_GRACE after its first use.
        """
        self._needs_passwords()
        now = self._clock.now()
        async with self._storage.write() as work:
            found = await work.sessions.by_token(digest(token))
            user = None if found is None else await work.users.get(found.session.user_id)
            if found is None or user is None:
                raise SessionExpired
            if self._is_spent(found):
                await work.sessions.revoke(user.id, found.session.id)
                await work.commit()
                raise SessionExpired
            fresh = secrets.token_urlsafe(32)
            await work.sessions.rotate(found, digest(fresh), now, now + REFRESH_LIFETIME)
            await work.commit()
        return self._tokens(user, found.session.id, fresh)

    async def logout(self, identity: Identity | None, token: str | None, *, everywhere: bool) -> None:
        """End the session of the refresh token, or else the one that asks; or all of its user. Harmless when over.

        A token that was used before may be stolen: it ends its own session alone.
        """
        self._needs_passwords()
        async with self._storage.write() as work:
            found = None if token is None else await work.sessions.by_token(digest(token))
            if found is not None:
                user_id, session_id = found.session.user_id, found.session.id
                everywhere = everywhere and not self._is_spent(found)
            elif token is None and identity is not None:
                self._needs_a_person(identity)
                user_id, session_id = identity.user_id, identity.credential_id or ""
            else:
                return
            if everywhere:
                await work.sessions.revoke_all(user_id)
            else:
                await work.sessions.revoke(user_id, session_id)
            await work.commit()

    # ── one's own account ──

    async def change_password(self, identity: Identity, current: str, new: str, client: Client) -> SignedIn:
        """Every session ends, and a new one begins. API keys stay."""
        account = await self._confirmed(identity, current, client, "currentPassword")
        new = normalised_password(new)
        check_password(new, account.user.email or "", "newPassword")
        hashed = await self._hasher.hash(new)
        async with self._storage.write() as work:
            await _unchanged(work, account)
            await work.users.set_password(account.user.id, hashed)
            await work.sessions.revoke_all(account.user.id)
            signed_in = await self._sign_in(work, account.user, client)
            await work.commit()
        return signed_in

    async def delete_account(self, identity: Identity, password: str, client: Client) -> None:
        """Remove the user with all that is theirs; live replies stop. Atomic, but rows go a little later."""
        account = await self._confirmed(identity, password, client, "password")
        user_id = account.user.id
        async with self._storage.write() as work:
            live = await work.replies.unsettled_of(user_id)
            for reply_id in live:
                await work.replies.request_stop(reply_id)
            await work.users.delete(user_id)
            await work.commit()
        self._notifier.ring(STOP, QUEUE, user_topic(user_id), *map(reply_topic, live))

    async def sessions(self, user_id: str) -> list[Session]:
        async with self._storage.read() as work:
            return await work.sessions.of_user(user_id)

    async def revoke_session(self, identity: Identity, session_id: str) -> None:
        self._needs_a_person(identity)
        async with self._storage.write() as work:
            if not await work.sessions.revoke(identity.user_id, session_id):
                raise NotFound("session", session_id, "sessionId")
            await work.commit()

    # ── API keys ──

    async def api_keys(self, user_id: str) -> list[ApiKey]:
        async with self._storage.read() as work:
            return await work.api_keys.of_user(user_id)

    async def create_api_key(self, identity: Identity, name: str, expires_at: datetime | None) -> tuple[ApiKey, str]:
        """The key's description, and the key itself, which nobody can be shown again."""
        self._needs_a_person(identity)
        check_name(name, "name")
        now = self._clock.now()
        if expires_at is not None and not now < expires_at < NEVER:
            raise InvalidInput("`expiresAt` has passed, or is out of range.", "expiresAt")
        secret = API_KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(self._ids.new("key"), identity.user_id, name, secret[:10], now, expires_at=expires_at)
        async with self._storage.write() as work:
            await work.users.account(identity.user_id, lock=True)
            if len(await work.api_keys.of_user(identity.user_id)) >= MAX_API_KEYS:
                raise InvalidInput(f"There are {MAX_API_KEYS} API keys already; revoke one first.")
            await work.api_keys.add(key, digest(secret))
            await work.commit()
        return key, secret

    async def revoke_api_key(self, identity: Identity, key_id: str) -> None:
        self._needs_a_person(identity)
        async with self._storage.write() as work:
            if not await work.api_keys.revoke(identity.user_id, key_id):
                raise NotFound("API key", key_id, "apiKeyId")
            await work.commit()

    # ── steps ──

    def _is_spent(self, token: RefreshToken) -> bool:
        return token.used_at is not None and self._clock.now() - token.used_at > REFRESH_GRACE

    async def _verify(self, email: str, account: Account | None, password: str, client: Client) -> None:
        """Raises RateLimited, or BAD_CREDENTIALS after the same time whether there is such an account or not.

        A try is counted before it is made, so that many at once are no more than many one by one; a right one is
        taken back, and one that could not be made for lack of time.
        """
        by_address, by_account = f"login:{client.address}", tries_of(email)
        async with self._storage.write() as work:
            wait = await _hit(work, by_address, self.policy.logins_per_address, TRIES_WINDOW)
            if wait is None:
                wait = await work.rates.hit(by_account, TRIES, TRIES_WINDOW)
                if wait is not None:
                    await work.rates.forgive(by_address)
            await work.commit()
        if wait is not None:
            raise RateLimited("tries to sign in", wait)
        hashed = None if account is None else account.password_hash
        try:
            right = await self._hasher.verify(normalised_password(password), hashed)
        except Unavailable:
            await self._forgive(by_address, by_account)
            raise
        if not right:
            raise BadCredentials
        await self._forgive(by_address, by_account)

    async def _forgive(self, *keys: str) -> None:
        async with self._storage.write() as work:
            for key in keys:
                await work.rates.forgive(key)
            await work.commit()

    async def _confirmed(self, identity: Identity, password: str, client: Client, path: str) -> Account:
        """The account that asks, once its password is given again."""
        self._needs_a_person(identity)
        self._needs_passwords()
        async with self._storage.read() as work:
            account = await work.users.account(identity.user_id)
        if account is None or account.user.email is None:
            raise SessionExpired
        try:
            await self._verify(account.user.email, account, password, client)
        except BadCredentials as error:
            error.path = (path,)
            raise
        return account

    async def _sign_in(self, work: UnitOfWork, user: User, client: Client) -> SignedIn:
        now, token = self._clock.now(), secrets.token_urlsafe(32)
        for oldest in (await work.sessions.of_user(user.id))[MAX_SESSIONS - 1 :]:
            await work.sessions.revoke(user.id, oldest.id)
        agent = client.user_agent and client.user_agent[:MAX_USER_AGENT].replace("\0", "")
        session = Session(self._ids.new("ses"), user.id, agent, now, now, now + REFRESH_LIFETIME)
        await work.sessions.add(session, digest(token))
        return self._tokens(user, session.id, token)

    def _tokens(self, user: User, session_id: str, refresh_token: str) -> SignedIn:
        assert self._issuer is not None, "where there are passwords there is an issuer"
        now = self._clock.now()
        expires_at = (now + ACCESS_LIFETIME).replace(microsecond=0)
        access = self._issuer.issue(Claims(user.id, expires_at, session_id))
        return SignedIn(user, session_id, access, expires_at, refresh_token, now + REFRESH_LIFETIME)

    def _needs_passwords(self) -> None:
        if self.policy.method is not AuthMethod.PASSWORD:
            raise AccessDenied(ErrorCode.FORBIDDEN, "This server keeps no passwords; see `server { authentication }`.")

    @staticmethod
    def _needs_a_person(identity: Identity) -> None:
        if identity.method not in (AuthMethod.PASSWORD, AuthMethod.OIDC):
            raise AccessDenied(
                ErrorCode.FORBIDDEN,
                "Accounts are managed by a signed-in person, not by an API key or without accounts.",
            )


def tries_of(email: str) -> str:
    """The key under which tries of an account's password are counted."""
    return f"tries:{digest(email)}"


async def _unchanged(work: UnitOfWork, account: Account) -> None:
    """Raises BAD_CREDENTIALS when the account was changed or deleted since its password was found right.

    Else it stays so until the end of the unit: whoever sets another password afterwards ends what is begun here.
    """
    if await work.users.account(account.user.id, lock=True) != account:
        raise BadCredentials


async def _hit(work: UnitOfWork, key: str, limit: int | None, window: timedelta) -> float | None:
    return None if limit is None else await work.rates.hit(key, limit, window)
