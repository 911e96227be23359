"""The public keys of an identity provider: which of them fits a token, and where they come from.

Either one key in PEM form, which never changes, or a JWK set (RFC 7517) that is fetched and kept. Only keys of the
configured place count: addresses and keys in tokens are never looked at. Knows nothing of claims.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from domain.errors import Unavailable
from tertulia.settings import SettingsError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256"})
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALGORITHMS = RSA_ALGORITHMS | frozenset(CURVE_ALGORITHMS.values()) | {"EdDSA"}
SHORTEST_RSA, LONGEST_RSA = 2048, 16_384
"""Bits; NIST SP 800-131A, and what OpenSSL verifies."""
FRESH_SECONDS, PAUSE_SECONDS, STALE_SECONDS = 600.0, 60.0, 86_400.0
"""Keys are fetched again after the first, never sooner after a try than the second, and without a success they serve
until the third."""
FETCH_SECONDS = 5.0
MAX_BYTES = 256 * 1024
AWAY = "The identity provider's keys cannot be had right now; try again in a moment."
log = structlog.get_logger("tertulia")
_UNREADABLE = (
    jwt.PyJWTError,
    UnsupportedAlgorithm,
    NotImplementedError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)
"""What PyJWK raises for keys that are unknown to it, wrong, of wrong types or lack a part."""


class KeySource(Protocol):
    async def find(self, algorithm: str, kid: str | None) -> PublicKey | None:
        """The one key that a token with this header may be signed by. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class SetKey:
    """A key of a set, and the algorithms it may be used with."""

    kid: str | None
    key: PublicKey
    algorithms: frozenset[str]


class PemKey:
    """A KeySource of one key; `kid` is not looked at. Raises SettingsError when it is none that can be used."""

    def __init__(self, pem: str) -> None:
        try:
            key = load_pem_public_key(pem.strip().encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SettingsError(
                "TERTULIA_JWT_PUBLIC_KEY is no public key in PEM form; it begins with -----BEGIN PUBLIC KEY-----."
            ) from error
        self._key: Any = key
        self._algorithms = algorithms_of(key)
        if not self._algorithms:
            raise SettingsError(
                "TERTULIA_JWT_PUBLIC_KEY must be an RSA key of 2048 to 16384 bits, or one of the curves P-256, P-384, "
                "P-521 and Ed25519."
            )

    async def find(self, algorithm: str, kid: str | None) -> PublicKey | None:
        key: PublicKey | None = self._key if algorithm in self._algorithms else None
        return key


class RemoteKeys:
    """A KeySource that fetches a JWK set from a configured address. Raises SettingsError for an unsafe address.

    Readers share a fetch, and one who names an unknown key asks for another. Once one failed nobody waits for the next
    as long as the known keys serve. `clock` is in seconds and never goes back.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = _safe(url)
        self._clock = clock
        self._keys: Sequence[SetKey] = ()
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._away = False

    async def find(self, algorithm: str, kid: str | None) -> PublicKey | None:
        if self._clock() - self._fetched_at >= FRESH_SECONDS:
            await self._refresh(wait=not self._away or not self._serving)
        if self._lacks(kid):
            await self._refresh(wait=True)
        if not self._serving or (self._away and self._lacks(kid)):
            raise Unavailable(AWAY)
        fitting = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.kid)]
        return fitting[0].key if len(fitting) == 1 else None

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _lacks(self, kid: str | None) -> bool:
        return kid is not None and kid not in {key.kid for key in self._keys}

    @property
    def _serving(self) -> bool:
        return self._clock() - self._fetched_at < STALE_SECONDS

    async def _refresh(self, *, wait: bool) -> None:
        """Take part in a fetch, or begin one unless the last is too recent. One who goes does not end it for others."""
        if self._fetching is None or self._fetching.done():
            if self._clock() - self._tried_at < PAUSE_SECONDS:
                return
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch(self._tried_at))
        if wait:
            await asyncio.wait([self._fetching])

    async def _fetch(self, begun_at: float) -> None:
        try:
            self._keys = usable_keys(await _download(self._url))
            self._fetched_at, self._away = begun_at, False
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._away = True
            log.warning("keys of the identity provider not fetched", reason=str(error) or type(error).__name__)


def usable_keys(document: bytes) -> list[SetKey]:
    """Of a JWK set; others are passed over, as RFC 7517, 5 asks. Raises ValueError when there is none."""
    content = orjson.loads(document)
    listed = content.get("keys") if isinstance(content, dict) else None
    keys = [key for item in listed if (key := _usable(item))] if isinstance(listed, list) else []
    if not keys:
        raise ValueError("there is no usable key in the answer")
    return keys


def _usable(item: Any) -> SetKey | None:  # noqa: ANN401  whatever the provider sent
    try:
        parsed = jwt.PyJWK(item)
        named = {item["alg"]} if item.get("alg") else ALGORITHMS
        signs = item.get("use", "sig") == "sig" and "verify" in item.get("key_ops", ["verify"])
    except _UNREADABLE:
        return None
    algorithms, kid = algorithms_of(parsed.key) & named, item.get("kid")
    return SetKey(kid if isinstance(kid, str) else None, parsed.key, algorithms) if algorithms and signs else None


def algorithms_of(key: object) -> frozenset[str]:
    """Those that fit the type, curve and length of a public key; none for private, symmetric and weak ones."""
    if isinstance(key, RSAPublicKey):
        return RSA_ALGORITHMS if SHORTEST_RSA <= key.key_size <= LONGEST_RSA else frozenset()
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset({CURVE_ALGORITHMS[key.curve.name]} if key.curve.name in CURVE_ALGORITHMS else ())
    return frozenset({"EdDSA"} if isinstance(key, Ed25519PublicKey) else ())


async def _download(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=not _on_this_machine(url)) as http,
        http.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
    ):
        if response.status != 200:
            raise ValueError(f"the answer is {response.status}")
        document = b""
        async for chunk in response.content.iter_chunked(64 * 1024):
            document += chunk
            if len(document) > MAX_BYTES:
                raise ValueError(f"the answer has more than {MAX_BYTES} bytes")
        return document


def _safe(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and _on_this_machine(url))):
        raise SettingsError(
            "TERTULIA_JWT_JWKS_URL must begin with https://; http:// is for an address of this machine alone."
        )
    return url


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
