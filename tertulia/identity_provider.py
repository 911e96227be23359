"""Access tokens of an external identity provider. Where its keys come from is in `jwks.py`.

Providers agree on little: what says that a token is an access token is checked wherever they say it. Knows nothing of
users here: who a subject is, and whether they may come in, is decided elsewhere.
"""

from typing import Any

import jwt
from jwt.types import Options

from domain.accounts import MAX_EMAIL, MAX_NAME, Claims
from domain.ports import Clock
from tertulia.jwks import ALGORITHMS, KeySource
from tertulia.verification import StrictJWT, check_times, header_of, is_text, refused, text_claim

EXPIRED = "The access token has expired; get a new one from the identity provider and try again."
OPTIONS: Options = {
    "require": ["iss", "aud", "sub", "exp"],
    "enforce_minimum_key_length": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}
"""The times are checked by `check_times`."""
OF_OTHER_TOKENS = frozenset({"at_hash", "c_hash", "s_hash", "events"})
"""Claims that only ID tokens (OpenID Connect Core, 3.3.2.11) and event tokens such as that of a logout have."""


class ProviderTokens:
    """A TokenReader. Tokens must be of exactly this issuer and be for this audience, perhaps among others."""

    def __init__(self, issuer: str, audience: str, keys: KeySource, clock: Clock) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._clock = clock
        self._jwt = StrictJWT()

    async def read(self, token: str) -> Claims:
        header = header_of(token)
        payload = await self._verified(token, header)
        if not _is_access_token(header, payload):
            raise refused()
        subject = text_claim(payload, "sub")
        expires_at = check_times(payload, self._clock.now(), EXPIRED)
        email = _optional(payload, "email", MAX_EMAIL) if payload.get("email_verified") is True else None
        return Claims(subject, expires_at, issuer=self._issuer, email=email, name=_optional(payload, "name", MAX_NAME))

    async def _verified(self, token: str, header: dict[str, Any]) -> dict[str, Any]:
        """`alg` of the header only chooses among the algorithms that are allowed and that the key is for."""
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise refused()
        key = await self._keys.find(algorithm, header.get("kid"))
        if key is None:
            raise refused()
        try:
            return self._jwt.decode(token, key, [algorithm], OPTIONS, audience=self._audience, issuer=self._issuer)
        except jwt.PyJWTError as error:
            raise refused() from error


def _is_access_token(header: dict[str, Any], payload: dict[str, Any]) -> bool:
    """An ID token is not one: it is for the client, and says who signed in, not what may be done.

    `nonce` alone does not make an ID token: Keycloak had it in access tokens until version 24, with `typ` Bearer.
    """
    media_type = str(header.get("typ", "JWT")).lower().removeprefix("application/")
    said = media_type == "at+jwt" or payload.get("typ") == "Bearer" or payload.get("token_use") == "access"
    return (
        media_type in ("jwt", "at+jwt")
        and payload.get("typ", "Bearer") == "Bearer"
        and payload.get("token_use", "access") == "access"
        and OF_OTHER_TOKENS.isdisjoint(payload)
        and (said or "nonce" not in payload)
    )


def _optional(payload: dict[str, Any], claim: str, longest: int) -> str | None:
    """None too for what cannot be stored: nobody is kept out for it."""
    value = payload.get(claim)
    return value if isinstance(value, str) and is_text(value, longest) else None
