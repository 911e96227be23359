"""Who is asking: users, their sessions and API keys, and the rules for e-mail addresses and passwords.

Only values and rules. What can be done with them is in `account_service.py`; how a bearer token becomes an Identity is
in `authentication.py`. Without accounts there is one local user, made by the first migration.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from domain.errors import InvalidInput
from domain.storable import check_characters

LOCAL_USER_ID = "user_00000000000070008000000000000000"
API_KEY_PREFIX = "tk_"
ACCESS_LIFETIME = timedelta(minutes=15)
REFRESH_LIFETIME = timedelta(days=30)
"""Of a refresh token that nobody uses; each use gives a new one."""
REFRESH_GRACE = timedelta(seconds=10)
"""So long a used refresh token still gets another of its family: two tabs refresh at once."""
MIN_PASSWORD, MAX_PASSWORD = 8, 256
"""NIST SP 800-63B asks for at least 8 characters, no rules of composition, and at least 64 allowed."""
MAX_EMAIL = 254
"""RFC 5321, 4.5.3.1.3."""
MAX_NAME = 200
TYPED = 4
"""So many code points may stand for one. To normalise takes time by the square of what it is given."""
EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]+")


class AuthMethod(StrEnum):
    """How a caller showed who they are."""

    NONE = "NONE"
    PASSWORD = "PASSWORD"  # noqa: S105  a name
    API_KEY = "API_KEY"
    OIDC = "OIDC"


@dataclass(frozen=True, slots=True)
class User:
    """`email` is normalised. One of an identity provider is known by its `issuer` and `subject`."""

    id: str
    display_name: str | None
    created_at: datetime
    email: str | None = None
    issuer: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking, by what, and until when. `credential_id` is that of the session or API key, where there is one."""

    user_id: str
    method: AuthMethod
    credential_id: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """From where somebody asks. `address` is what rates are counted by."""

    address: str
    user_agent: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A family of refresh tokens: one sign-in on one device."""

    id: str
    user_id: str
    user_agent: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`prefix` is the visible beginning of the key; the key itself is stored as a hash alone."""

    id: str
    user_id: str
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified access token says. `session_id` is set in ours alone, `issuer` in those of others alone."""

    subject: str
    expires_at: datetime
    session_id: str | None = None
    issuer: str | None = None
    email: str | None = None
    name: str | None = None


def normalised_email(text: str) -> str:
    """The address as it is compared and stored. Raises InvalidInput for what cannot be one."""
    if len(text) > TYPED * MAX_EMAIL:
        raise InvalidInput("This is not an e-mail address.", "email")
    email = unicodedata.normalize("NFKC", text).strip().casefold()
    if len(email) > MAX_EMAIL or not EMAIL.fullmatch(email):
        raise InvalidInput("This is not an e-mail address.", "email")
    check_characters(email, "email")
    return email


def normalised_password(text: str) -> str:
    """The password as it is hashed: the same one may be typed as different code points.

    What is far too long comes back as it is, which is nobody's password.
    """
    return text if len(text) > TYPED * MAX_PASSWORD else unicodedata.normalize("NFKC", text)


def check_password(password: str, email: str, field: str) -> None:
    """Raises InvalidInput for a password that must not be set."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.", field)
    check_characters(password, field)
    if password.casefold() in (email, email.partition("@")[0]):
        raise InvalidInput("The password must not be the e-mail address.", field)


def check_name(name: str | None, field: str) -> None:
    if name is None:
        return
    if not name.strip() or len(name) > MAX_NAME or "\0" in name:
        raise InvalidInput(f"A name has 1 to {MAX_NAME} characters.", field)
    check_characters(name, field)


def new_user(user_id: str, email: str, password: str, name: str | None, now: datetime) -> tuple[User, str]:
    """A user of the server's own, and their password as it is hashed. Raises InvalidInput."""
    email, password = normalised_email(email), normalised_password(password)
    check_password(password, email, "password")
    check_name(name, "displayName")
    return User(user_id, name, now, email), password


def digest(secret: str) -> str:
    """What is stored of a random secret, in hex. Fit for secrets of 128 bits and more alone: passwords need more."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
