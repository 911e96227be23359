"""Where an identity provider's keys come from: when they are fetched, what is taken, and what while it is away."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from domain.errors import Unavailable
from tertulia import jwks
from tertulia.jwks import FRESH_SECONDS, MAX_BYTES, PAUSE_SECONDS, STALE_SECONDS, PemKey, RemoteKeys, usable_keys
from tertulia.settings import SettingsError
from tests.security.key_server import KeyServer, key_server

RSA, OTHER, WEAK = (rsa.generate_private_key(65537, bits) for bits in (2048, 2048, 1024))
P256, K256 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256K1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
FIRST = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "first"}
SECOND = RSAAlgorithm.to_jwk(OTHER.public_key(), as_dict=True) | {"kid": "second"}
CURVE = ECAlgorithm.to_jwk(P256.public_key(), as_dict=True) | {"kid": "curve"}


class Ticks:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server() as server:
        server.offer(FIRST)
        yield server


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
async def keys(server: KeyServer, ticks: Ticks) -> AsyncIterator[RemoteKeys]:
    keys = RemoteKeys(server.url, ticks)
    yield keys
    await keys.aclose()


async def finds(keys: RemoteKeys, kid: str | None, algorithm: str = "RS256") -> bool:
    return await keys.find(algorithm, kid) is not None


# ── when they are fetched ──


async def test_keys_are_fetched_once_and_kept_for_ten_minutes(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    assert await finds(keys, "first")
    ticks.seconds += FRESH_SECONDS - 1
    assert await finds(keys, "first")
    assert server.fetches == 1
    ticks.seconds += 1
    assert await finds(keys, "first")
    assert server.fetches == 2


async def test_a_key_that_was_taken_out_is_gone_after_ten_minutes(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    assert await finds(keys, "first")
    server.offer(SECOND)
    ticks.seconds += FRESH_SECONDS
    assert not await finds(keys, "first")
    assert await finds(keys, "second")


async def test_a_new_key_is_fetched_when_a_token_names_it(keys: RemoteKeys, server: KeyServer, ticks: Ticks) -> None:
    assert await finds(keys, "first")
    server.offer(FIRST, SECOND)
    ticks.seconds += PAUSE_SECONDS
    assert await finds(keys, "second")
    assert server.fetches == 2


async def test_a_flood_of_unknown_kids_causes_one_fetch_a_minute(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    for minute in range(3):
        found = await asyncio.gather(*(finds(keys, f"{minute}-{number}") for number in range(200)))
        assert not any(found)
        ticks.seconds += PAUSE_SECONDS / 2
        await asyncio.gather(*(finds(keys, f"{minute}+{number}") for number in range(200)))
        ticks.seconds += PAUSE_SECONDS / 2
    assert server.fetches == 3


async def test_readers_share_a_fetch(keys: RemoteKeys, server: KeyServer) -> None:
    assert all(await asyncio.gather(*(finds(keys, "first") for _ in range(50))))
    assert server.fetches == 1


async def test_a_fetch_goes_on_when_the_reader_who_began_it_leaves(keys: RemoteKeys, server: KeyServer) -> None:
    server.open.clear()
    begun = asyncio.create_task(finds(keys, "first"))
    await server.asked.wait()
    other = asyncio.create_task(finds(keys, "first"))
    begun.cancel()
    await asyncio.wait([begun])
    server.open.set()
    assert await other
    assert server.fetches == 1


async def test_closing_ends_a_fetch(server: KeyServer, ticks: Ticks) -> None:
    server.open.clear()
    keys = RemoteKeys(server.url, ticks)
    reader = asyncio.create_task(finds(keys, "first"))
    await server.asked.wait()
    await keys.aclose()
    with pytest.raises(Unavailable):
        await reader


async def test_all_who_read_while_old_keys_are_fetched_anew_wait_for_the_new_ones(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    assert await finds(keys, "first")
    server.offer(SECOND)
    ticks.seconds += FRESH_SECONDS
    assert not any(await asyncio.gather(*(finds(keys, "first") for _ in range(20))))
    assert server.fetches == 2


# ── while the provider is away ──


async def test_before_any_key_was_had_nobody_is_told_that_a_token_is_wrong(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    server.status = 503
    for _ in range(3):
        with pytest.raises(Unavailable, match="identity provider"):
            await finds(keys, "first")
    assert server.fetches == 1
    server.status = 200
    ticks.seconds += PAUSE_SECONDS
    assert await finds(keys, "first")


async def test_known_keys_serve_for_a_day(keys: RemoteKeys, server: KeyServer, ticks: Ticks) -> None:
    assert await finds(keys, "first")
    server.status = 503
    for _ in range(int(STALE_SECONDS / FRESH_SECONDS) - 1):
        ticks.seconds += FRESH_SECONDS
        assert await finds(keys, "first")
    ticks.seconds += FRESH_SECONDS
    with pytest.raises(Unavailable):
        await finds(keys, "first")


async def test_nobody_waits_for_a_provider_that_is_known_to_be_away(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    assert await finds(keys, "first")
    server.status = 503
    ticks.seconds += FRESH_SECONDS
    assert await finds(keys, "first")
    server.open.clear()
    ticks.seconds += PAUSE_SECONDS
    assert await finds(keys, "first")
    await server.asked.wait()


async def test_a_key_that_is_not_known_cannot_be_had_while_the_provider_is_away(
    keys: RemoteKeys, server: KeyServer, ticks: Ticks
) -> None:
    assert await finds(keys, "first")
    server.status = 503
    ticks.seconds += PAUSE_SECONDS
    with pytest.raises(Unavailable):
        await finds(keys, "second")
    assert await finds(keys, "first")


async def test_a_provider_that_nobody_hears_of_is_away(ticks: Ticks) -> None:
    async with key_server() as gone:
        pass
    with pytest.raises(Unavailable):
        await RemoteKeys(gone.url, ticks).find("RS256", "first")


async def test_a_provider_that_does_not_answer_is_away(
    keys: RemoteKeys, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jwks.FETCH_SECONDS == 5
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.05)
    server.open.clear()
    with pytest.raises(Unavailable):
        await finds(keys, "first")


# ── what is taken ──


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(keys: RemoteKeys, server: KeyServer, status: int) -> None:
    server.status, server.headers = status, {"Location": "/elsewhere"}
    with pytest.raises(Unavailable):
        await finds(keys, "first")
    assert server.paths == ["/jwks.json"]


BAD_SETS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b'{"keys": [',
    "a page": b"<html></html>",
    "a list": b"[]",
    "null": b"null",
    "no keys": b"{}",
    "keys of a wrong type": b'{"keys": {"first": {}}}',
    "null keys": b'{"keys": null}',
    "an empty set": b'{"keys": []}',
    "keys that are none": b'{"keys": [null, 1, "x", [], {}]}',
    "nested deeply": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe",
    "too much": json.dumps({"keys": [FIRST], "more": "x" * MAX_BYTES}).encode(),
}


@pytest.mark.parametrize("name", BAD_SETS)
async def test_a_broken_set_is_no_set(keys: RemoteKeys, server: KeyServer, name: str) -> None:
    server.body = BAD_SETS[name]
    with pytest.raises(Unavailable):
        await finds(keys, "first")


@pytest.mark.parametrize("name", BAD_SETS)
async def test_a_broken_set_leaves_the_known_keys(keys: RemoteKeys, server: KeyServer, ticks: Ticks, name: str) -> None:
    assert await finds(keys, "first")
    server.body = BAD_SETS[name]
    ticks.seconds += FRESH_SECONDS
    assert await finds(keys, "first")


async def test_a_small_answer_that_unpacks_to_much_is_refused(keys: RemoteKeys, server: KeyServer) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    server.body = gzip.compress(b" " * 50_000_000 + json.dumps({"keys": [FIRST]}).encode())
    with pytest.raises(Unavailable):
        await finds(keys, "first")


UNUSABLE: dict[str, dict[str, Any]] = {
    "weak RSA": RSAAlgorithm.to_jwk(WEAK.public_key(), as_dict=True),
    "RSA beyond all measure": FIRST | {"n": "_" * 4_000},
    "private RSA": RSAAlgorithm.to_jwk(RSA, as_dict=True),
    "private curve": ECAlgorithm.to_jwk(P256, as_dict=True),
    "private Ed25519": OKPAlgorithm.to_jwk(ED25519, as_dict=True),
    "symmetric": HMACAlgorithm.to_jwk(b"x" * 32, as_dict=True),
    "symmetric without its part": {"kty": "oct"},
    "curve of a wallet": ECAlgorithm.to_jwk(K256.public_key(), as_dict=True),
    "curve and algorithm that do not fit": CURVE | {"alg": "ES384"},
    "point beside the curve": CURVE | {"x": CURVE["y"]},
    "for encryption": FIRST | {"use": "enc"},
    "for wrapping": FIRST | {"key_ops": ["wrapKey"]},
    "key_ops of a wrong type": FIRST | {"key_ops": 1},
    "unknown type": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
    "type of a wrong type": FIRST | {"kty": ["RSA"]},
    "part of a wrong type": FIRST | {"n": 7},
    "part that is no base64": FIRST | {"n": "ä"},
    **{
        f"alg {alg!r}": FIRST | {"alg": alg}
        for alg in ("none", "HS256", "RSA-OAEP", "ES256", "PS384", 1, ["RS256"], {"RS256": 1})
    },
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_a_key_that_cannot_be_used_is_passed_over(name: str) -> None:
    usable = usable_keys(json.dumps({"keys": [UNUSABLE[name] | {"kid": "bad"}, SECOND]}).encode())
    assert [key.kid for key in usable] == ["second"]


async def test_a_key_serves_only_the_algorithms_it_is_for(keys: RemoteKeys, server: KeyServer) -> None:
    server.offer(FIRST, SECOND | {"alg": "RS256"}, CURVE)
    assert [await finds(keys, "first", name) for name in ("RS256", "RS512", "PS256", "ES256")] == [
        True,
        True,
        True,
        False,
    ]
    assert [await finds(keys, "second", name) for name in ("RS256", "RS512", "PS256")] == [True, False, False]
    assert [await finds(keys, "curve", name) for name in ("RS256", "ES256", "ES384")] == [False, True, False]


async def test_without_a_kid_there_must_be_just_one_key_that_fits(keys: RemoteKeys, server: KeyServer) -> None:
    server.offer(FIRST, SECOND, CURVE)
    assert await finds(keys, None, "ES256")
    assert not await finds(keys, None, "RS256")


async def test_two_keys_with_the_same_kid_are_told_apart_by_their_algorithms_alone(
    keys: RemoteKeys, server: KeyServer
) -> None:
    server.offer(FIRST, CURVE | {"kid": "first"}, SECOND, SECOND)
    assert await finds(keys, "first", "RS256")
    assert await finds(keys, "first", "ES256")
    assert not await finds(keys, "second", "RS256")


# ── what the operator may set ──


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/jwks.json",
        "http://localhost.example.com/jwks.json",
        "http://127.0.0.1@login.example.com/jwks.json",
        "http://10.0.0.1/jwks.json",
        "file:///etc/passwd",
        "ftp://127.0.0.1/jwks.json",
        "//login.example.com/jwks.json",
        "https://",
        "jwks.json",
        "",
    ],
)
def test_an_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="TERTULIA_JWT_JWKS_URL must begin with https://"):
        RemoteKeys(url)


@pytest.mark.parametrize(
    "url", ["https://login.example.com/keys", "http://localhost:1/k", "http://127.0.0.2/k", "http://[::1]:8080/k"]
)
def test_a_safe_address_is_taken(url: str) -> None:
    RemoteKeys(url)


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "x",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        public_pem(WEAK),
        public_pem(K256),
        json.dumps(FIRST),
    ],
)
def test_a_key_in_pem_form_that_cannot_be_used_is_refused(pem: str) -> None:
    with pytest.raises(SettingsError, match="TERTULIA_JWT_PUBLIC_KEY"):
        PemKey(pem)


async def test_a_key_in_pem_form_serves_the_algorithms_of_its_type_whatever_the_kid() -> None:
    key = PemKey(f"\n{public_pem(RSA)}\n")
    assert await key.find("RS256", None)
    assert await key.find("PS256", "any")
    assert not await key.find("ES256", None)
    assert not await key.find("HS256", None)
