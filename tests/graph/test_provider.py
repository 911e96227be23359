"""Users of an identity provider at a real server: by its tokens, apart from each other, without a password here."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.graph.people import FORMS, SEND, SERVER, VIEWER, Person, server_with
from tests.security.key_server import key_server

ISSUER, AUDIENCE = "https://id.example/", "tertulia"
Token = Callable[..., str]


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def token(key: ec.EllipticCurvePrivateKey) -> Token:
    def make(subject: str = "42", **claims: Any) -> str:
        now = int(time.time())
        plain = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600}
        return jwt.encode(plain | claims, key, "ES256", {"typ": "at+jwt", "kid": "k1"})

    return make


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": x, "y": y}


def provider(**keys: str) -> dict[str, Any]:
    return {"auth": "jwt", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE} | keys


async def test_users_of_a_provider_come_by_its_tokens_and_are_apart(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, token: Token
) -> None:
    async with server_with(tmp_path, **provider(jwt_public_key=pem(key))) as server:
        ada, grace = Person(server, token("1", name="Ada")), Person(server, token("2"))
        viewer = (await ada.ask(VIEWER))["viewer"]
        assert (viewer["displayName"], viewer["email"], viewer["sessions"]) == ("Ada", None, [])
        await ada.ask(SEND, text="Ada's")
        assert (await ada.titles(), await grace.titles()) == (["Ada's"], [])
        assert (await Person(server, token("1")).ask(VIEWER))["viewer"]["id"] == viewer["id"]
        assert (await Person(server).ask(SERVER))["server"]["authentication"] == ["OIDC", "API_KEY"]


async def test_users_of_a_provider_make_keys_and_have_no_password_here(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, token: Token
) -> None:
    async with server_with(tmp_path, **provider(jwt_public_key=pem(key))) as server:
        ada = Person(server, token())
        made = await ada.done("createApiKey", name="robot")
        assert (await Person(server, made["secret"]).ask("{ viewer { id } }")) == await ada.ask("{ viewer { id } }")
        await ada.done("revokeApiKey", apiKeyId=made["apiKey"]["id"])
        for name in ("register", "login", "refreshSession", "changePassword", "deleteAccount"):
            assert await ada.refused(name, **FORMS[name]) == ("FORBIDDEN", ["input"])


async def test_tokens_that_are_not_the_providers_for_this_server_are_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, token: Token
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    forged = jwt.encode(jwt.decode(token(), options={"verify_signature": False}), other, "ES256", {"typ": "at+jwt"})
    async with server_with(tmp_path, **provider(jwt_public_key=pem(key))) as server:
        for wrong in (forged, token(aud="else"), token(iss="https://else/"), token(exp=int(time.time()) - 1)):
            assert await Person(server, wrong).code() == "UNAUTHENTICATED"


async def test_the_providers_keys_are_fetched_from_where_it_publishes_them(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, token: Token
) -> None:
    async with key_server() as keys:
        keys.offer(jwk(key))
        async with server_with(tmp_path, **provider(jwt_jwks_url=keys.url)) as server:
            for _ in range(3):
                assert (await Person(server, token()).ask("{ viewer { id } }"))["viewer"] is not None
        assert keys.fetches == 1


async def test_while_the_providers_keys_are_away_nobody_is_called_unknown(tmp_path: Path, token: Token) -> None:
    async with key_server() as keys:
        keys.status = 500
        async with server_with(tmp_path, **provider(jwt_jwks_url=keys.url)) as server:
            assert await Person(server, token()).code() == "UNAVAILABLE"
