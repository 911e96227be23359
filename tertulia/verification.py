"""What is checked alike of our own access tokens and of other issuers': form, header, payload and times.

PyJWT checks signature, issuer and audience. The times are checked here: PyJWT reads the system's clock and takes
`exp` as text or as a number beyond any date. Knows no keys.
"""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from domain.errors import Unauthenticated

MAX_TOKEN = 8 * 1024
"""Characters; what common servers take as a whole header line."""
LEEWAY = timedelta(seconds=5)
"""For `iat` and `nbf` alone: a token may come back at once to a server whose clock is a little behind its issuer's.
`exp` has none, so that a token ends when it says so everywhere, also on open sockets."""
COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""A signed token in the form of RFC 7515, 7.1: three parts, none empty, and no padding, which PyJWT would let pass."""


def refused() -> Unauthenticated:
    """One sentence for every fault, so that nobody learns from it how far a forgery came."""
    return Unauthenticated("The access token is not valid; sign in again.")


def header_of(token: str) -> dict[str, Any]:
    """The header, not yet verified. Raises Unauthenticated; also for extensions that must be understood (`crit`)."""
    if len(token) > MAX_TOKEN or not COMPACT.fullmatch(token):
        raise refused()
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise refused() from error
    if "crit" in header or "b64" in header:
        raise refused()
    return header


def check_times(payload: dict[str, Any], now: datetime, expired: str) -> datetime:
    """When the token expires. Raises Unauthenticated, with the sentence `expired` if that is all that is wrong."""
    for claim in ("iat", "nbf"):
        if claim in payload and _instant(payload[claim]) > now + LEEWAY:
            raise refused()
    expires_at = _instant(payload.get("exp"))
    if expires_at <= now:
        raise Unauthenticated(expired)
    return expires_at


def text_claim(payload: dict[str, Any], claim: str, longest: int = 255) -> str:
    """A claim that is there, not empty, and can be stored as text. Raises Unauthenticated."""
    value = payload.get(claim)
    if not isinstance(value, str) or not is_text(value, longest):
        raise refused()
    return value


def is_text(value: str, longest: int) -> bool:
    """Whether databases take it: U+0000 and halves of surrogate pairs are not for them."""
    return 0 < len(value) <= longest and not re.search(r"[\x00\ud800-\udfff]", value)


class StrictJWT(jwt.PyJWT):
    """Refuses what parsers read differently: a name that occurs twice, NaN, Infinity, and what is not UTF-8."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        try:
            payload = json.loads(decoded["payload"].decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise jwt.DecodeError("unclear payload") from error
        if not isinstance(payload, dict):
            raise jwt.DecodeError("the payload is no object")
        return payload


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _instant(value: Any) -> datetime:  # noqa: ANN401  whatever the token holds
    """A NumericDate (RFC 7519, 2): a number, perhaps with a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused()
    try:
        return datetime.fromtimestamp(math.floor(value), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise refused() from error
