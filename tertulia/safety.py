"""What a server refuses to start with, because nobody would want it on purpose. Each refusal names its setting."""

from persistence.database import normalised
from tertulia.errors import SettingsError
from tertulia.settings import Settings
from tertulia.signing_key import signing_key


def check_safety(settings: Settings) -> None:
    """Raises SettingsError with one sentence for the first thing that is unsafe."""
    for check in (_check_exposure, _check_cookies, _check_key, _check_provider):
        check(settings)


def _check_exposure(settings: Settings) -> None:
    if settings.auth == "none" and not settings.loopback_only and not settings.allow_anonymous:
        raise SettingsError(
            f"TERTULIA_HOST is {settings.host!r}, which others can reach, but there are no accounts: everybody would "
            "share one user. Set TERTULIA_AUTH=password, listen on 127.0.0.1, or set TERTULIA_ALLOW_ANONYMOUS=true to "
            "do it on purpose."
        )


def _check_cookies(settings: Settings) -> None:
    if settings.refresh_cookie and "*" in settings.allowed_origins:
        raise SettingsError(
            "TERTULIA_ALLOWED_ORIGINS is *, but with TERTULIA_REFRESH_COOKIE any web page could act for who visits it. "
            "Name the origins of your front ends."
        )
    if settings.refresh_cookie and settings.auth != "password":
        raise SettingsError("TERTULIA_REFRESH_COOKIE is true, which needs TERTULIA_AUTH=password.")


def _check_key(settings: Settings) -> None:
    """Before anything is opened; where a key is made and kept, that is left to the start."""
    if settings.auth != "password":
        return
    secret, embedded = settings.secret_key, normalised(settings.database_url).get_backend_name() == "sqlite"
    if secret is not None or not embedded or not settings.loopback_only:
        signing_key(secret.get_secret_value() if secret else None, None, loopback=settings.loopback_only)


def _check_provider(settings: Settings) -> None:
    if settings.auth != "jwt":
        return
    for name in ("jwt_issuer", "jwt_audience"):
        if not getattr(settings, name):
            raise SettingsError(f"TERTULIA_AUTH is jwt, which needs TERTULIA_{name.upper()}.")
    if (settings.jwt_jwks_url is None) == (settings.jwt_public_key is None):
        raise SettingsError(
            "TERTULIA_AUTH is jwt, which needs the identity provider's keys: set either TERTULIA_JWT_JWKS_URL or "
            "TERTULIA_JWT_PUBLIC_KEY."
        )
