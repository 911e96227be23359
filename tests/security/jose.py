"""Tokens made by hand, so that they may be as wrong as one likes: any header, any payload, any signature."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

Sign = Callable[[bytes], bytes]
HASHES: dict[str, type[SHA256] | type[SHA384] | type[SHA512]] = {"256": SHA256, "384": SHA384, "512": SHA512}


class FixedClock:
    """A Clock that always stands still at the same moment, so that nothing a test is named by changes."""

    def __init__(self) -> None:
        self.at = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def seconds(self, later: int = 0) -> int:
        return int(self.at.timestamp()) + later


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(content: dict[str, Any] | str | bytes) -> str:
    """A header or payload: an object, or the very text or bytes."""
    text = json.dumps(content) if isinstance(content, dict) else content
    return b64(text.encode() if isinstance(text, str) else text)


def token(header: dict[str, Any] | str, payload: dict[str, Any] | str | bytes, sign: Sign) -> str:
    signed = f"{part(header)}.{part(payload)}"
    return f"{signed}.{b64(sign(signed.encode()))}"


def unsigned(_: bytes) -> bytes:
    return b""


def by_hmac(key: bytes, digest: str = "sha256") -> Sign:
    return lambda message: hmac.digest(key, message, digest)


def by_rsa(key: rsa.RSAPrivateKey, algorithm: str = "RS256") -> Sign:
    digest = HASHES[algorithm[2:]]
    if algorithm.startswith("PS"):
        pss = padding.PSS(padding.MGF1(digest()), padding.PSS.DIGEST_LENGTH)
        return lambda message: key.sign(message, pss, digest())
    return lambda message: key.sign(message, padding.PKCS1v15(), digest())


def by_ec(key: ec.EllipticCurvePrivateKey, algorithm: str) -> Sign:
    size = (key.curve.key_size + 7) // 8

    def sign(message: bytes) -> bytes:
        pair = utils.decode_dss_signature(key.sign(message, ec.ECDSA(HASHES[algorithm[2:]]())))
        return b"".join(number.to_bytes(size, "big") for number in pair)

    return sign


def by_ed25519(key: ed25519.Ed25519PrivateKey) -> Sign:
    return key.sign


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def without(claims: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in claims.items() if key != name}
