"""Our own access tokens: short-lived, signed, and readable by every server that has the same secret.

They follow RFC 9068 (`at+jwt`). Knows nothing of refresh tokens and API keys, which are no JWTs, and asks no storage:
whether the session of a token still lives is for others to ask.
"""

import hashlib
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.types import Options

from domain.accounts import Claims
from domain.ports import Clock
from tertulia.verification import StrictJWT, check_times, header_of, refused, text_claim

NAME = "tertulia"
"""Issuer and audience at once."""
TYPE = "at+jwt"
ALGORITHM = "HS256"
EXPIRED = "The access token has expired; refresh the session and try again."
OPTIONS: Options = {
    "require": ["iss", "aud", "sub", "sid", "iat", "exp", "jti"],
    "strict_aud": True,
    "enforce_minimum_key_length": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}
"""The times are checked by `check_times`."""


class AccessTokens:
    """A TokenIssuer and TokenReader.

    The signing key is derived from the secret for this purpose alone. Another secret makes every token invalid; their
    sessions go on by refreshing.
    """

    def __init__(self, secret: str, clock: Clock) -> None:
        self._key = signing_key_from(secret)
        self._kid = hashlib.sha256(self._key).hexdigest()[:16]
        self._clock = clock
        self._jwt = StrictJWT()

    def issue(self, claims: Claims) -> str:
        """The token of a session; its expiry is that of the claims in whole seconds."""
        payload = {
            "iss": NAME,
            "aud": NAME,
            "sub": claims.subject,
            "sid": claims.session_id,
            "iat": int(self._clock.now().timestamp()),
            "exp": int(claims.expires_at.timestamp()),
            "jti": uuid4().hex,
        }
        return self._jwt.encode(payload, self._key, ALGORITHM, {"typ": TYPE, "kid": self._kid})

    async def read(self, token: str) -> Claims:
        header = header_of(token)
        if header.get("typ") != TYPE or header.get("kid") != self._kid:
            raise refused()
        payload = self._verified(token)
        subject, session_id = text_claim(payload, "sub"), text_claim(payload, "sid")
        return Claims(subject, check_times(payload, self._clock.now(), EXPIRED), session_id=session_id)

    def _verified(self, token: str) -> dict[str, Any]:
        try:
            return self._jwt.decode(token, self._key, [ALGORITHM], OPTIONS, audience=NAME, issuer=NAME)
        except jwt.PyJWTError as error:
            raise refused() from error


def signing_key_from(secret: str) -> bytes:
    """HKDF (RFC 5869): what else is derived from the secret, with another `info`, tells nothing of this key.

    Bytes of the environment that are no UTF-8 count as they are.
    """
    return HKDF(SHA256(), 32, salt=None, info=b"tertulia access tokens").derive(secret.encode(errors="surrogateescape"))
