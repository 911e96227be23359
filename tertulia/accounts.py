"""The parts behind accounts, put together as the settings say: who is believed, and what accounts there may be."""

from contextlib import AsyncExitStack

import structlog

from domain.account_service import AccountPolicy, AccountService
from domain.accounts import AuthMethod
from domain.authentication import Authenticator
from domain.ports import Clock, Ids, Notifier, TokenIssuer, TokenReader
from domain.storage import Storage
from persistence.database import Database
from tertulia.identity_provider import ProviderTokens
from tertulia.jwks import KeySource, PemKey, RemoteKeys
from tertulia.passwords import Argon2Hasher
from tertulia.settings import Settings
from tertulia.signing_key import signing_key
from tertulia.tokens import AccessTokens

log = structlog.get_logger("tertulia")
METHODS = {
    "none": (AuthMethod.NONE,),
    "password": (AuthMethod.PASSWORD, AuthMethod.API_KEY),
    "jwt": (AuthMethod.OIDC, AuthMethod.API_KEY),
}
"""What each kind of authentication lets callers show; the first is what people show."""


def open_accounts(
    settings: Settings,
    database: Database,
    storage: Storage,
    notifier: Notifier,
    clock: Clock,
    ids: Ids,
    stack: AsyncExitStack,
) -> tuple[AccountService, Authenticator]:
    """Raises SettingsError when the signing key or the identity provider's keys are not what they must be."""
    if settings.auth == "none" and not settings.loopback_only:
        log.warning("there are no accounts: everybody who reaches this server shares one user", host=settings.host)
    reader, issuer = _tokens(settings, database, clock, stack)
    hasher = Argon2Hasher()
    stack.push_async_callback(hasher.aclose)
    policy = AccountPolicy(
        METHODS[settings.auth][0],
        settings.auth == "password" and settings.registration == "open",
        settings.logins_per_address or None,
        settings.registrations_per_address or None,
    )
    reachable = settings.auth != "none" or not settings.loopback_only
    anonymous = settings.anonymous_operations_per_address if reachable else 0
    accounts = AccountService(storage, notifier, hasher, issuer, clock, ids, policy)
    return accounts, Authenticator(storage, clock, ids, reader, anonymous or None)


def _tokens(
    settings: Settings, database: Database, clock: Clock, stack: AsyncExitStack
) -> tuple[TokenReader | None, TokenIssuer | None]:
    if settings.auth == "none":
        return None, None
    if settings.auth == "jwt":
        keys = _provider_keys(settings, stack)
        return ProviderTokens(settings.jwt_issuer or "", settings.jwt_audience or "", keys, clock), None
    given = settings.secret_key.get_secret_value() if settings.secret_key else None
    tokens = AccessTokens(signing_key(given, database.file, loopback=settings.loopback_only), clock)
    return tokens, tokens


def _provider_keys(settings: Settings, stack: AsyncExitStack) -> KeySource:
    if settings.jwt_public_key is not None:
        return PemKey(settings.jwt_public_key)
    keys = RemoteKeys(settings.jwt_jwks_url or "")
    stack.push_async_callback(keys.aclose)
    return keys
