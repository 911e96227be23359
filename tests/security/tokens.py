"""Access tokens of real sessions that expire when a test likes."""

from datetime import UTC, datetime, timedelta
from secrets import token_urlsafe

from domain.accounts import Claims
from tertulia.services import SystemClock
from tertulia.tokens import AccessTokens
from tests.security.people import Person

SECRET_KEY = token_urlsafe(48)


async def expiring(person: Person, seconds: float) -> str:
    """One of the person's only session."""
    (session_id,) = await person.sessions()
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    return AccessTokens(SECRET_KEY, SystemClock()).issue(Claims(person.user_id, expires_at, session_id))
