"""Tokens of an identity provider: those of each algorithm are read, and no forgery is taken for one."""

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import assume, given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from domain.accounts import Claims
from domain.errors import Unauthenticated
from tertulia.identity_provider import ProviderTokens
from tertulia.jwks import ALGORITHMS, PemKey, RemoteKeys
from tertulia.verification import LEEWAY, MAX_TOKEN
from tests.security.jose import (
    FixedClock,
    Sign,
    b64,
    by_ec,
    by_ed25519,
    by_hmac,
    by_rsa,
    part,
    token,
    unsigned,
    without,
)
from tests.security.key_server import key_server

ISSUER, AUDIENCE = "https://login.example.com/realms/chat", "tertulia-api"
CLOCK = FixedClock()
RSA, OTHER_RSA = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
CURVES = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
ED25519 = ed25519.Ed25519PrivateKey.generate()
SIGNERS: dict[str, tuple[Any, Sign]] = {
    **{name: (RSA.public_key(), by_rsa(RSA, name)) for name in ("RS256", "RS384", "RS512", "PS256")},
    **{name: (key.public_key(), by_ec(key, name)) for name, key in CURVES.items()},
    "EdDSA": (ED25519.public_key(), by_ed25519(ED25519)),
}
JWKS: list[dict[str, Any]] = [
    RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "rsa", "use": "sig"},
    RSAAlgorithm.to_jwk(OTHER_RSA.public_key(), as_dict=True) | {"kid": "rsa-256", "alg": "RS256"},
    *(ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": name} for name, key in CURVES.items()),
    OKPAlgorithm.to_jwk(ED25519.public_key(), as_dict=True) | {"kid": "EdDSA"},
    {"kty": "oct", "k": b64(b"x" * 32), "kid": "oct", "alg": "HS256"},
]
HEADER = {"typ": "at+jwt", "alg": "RS256", "kid": "rsa"}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "248289761001",
    "iat": CLOCK.seconds(),
    "exp": CLOCK.seconds(300),
}
signed = by_rsa(RSA)
GOOD = token(HEADER, CLAIMS, signed)
H, P, S = GOOD.split(".")


def pem(key: Any) -> str:
    text: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def reader_of(key: Any) -> ProviderTokens:
    return ProviderTokens(ISSUER, AUDIENCE, PemKey(pem(key)), CLOCK)


with_pem = reader_of(RSA.public_key())


async def with_jwks(forged: str) -> Claims:
    """Reads it with the keys of a set that a server on loopback offers."""
    async with key_server() as server:
        server.offer(*JWKS)
        keys = RemoteKeys(server.url)
        try:
            return await ProviderTokens(ISSUER, AUDIENCE, keys, CLOCK).read(forged)
        finally:
            await keys.aclose()
            assert set(server.paths) <= {"/jwks.json"}


async def refusal(forged: str) -> str:
    """The common sentence of both readers."""
    messages = set()
    for read in (with_pem.read, with_jwks):
        with pytest.raises(Unauthenticated) as caught:
            await read(forged)
        messages.add(caught.value.message)
    assert len(messages) == 1
    return messages.pop()


# ── good ones ──


def test_there_is_a_signer_for_each_algorithm() -> None:
    assert set(SIGNERS) == ALGORITHMS


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_a_token_of_each_algorithm_is_read(algorithm: str) -> None:
    key, sign = SIGNERS[algorithm]
    kid = algorithm if algorithm[0] == "E" else "rsa"
    good = token({"alg": algorithm, "kid": kid}, CLAIMS, sign)
    expected = Claims(CLAIMS["sub"], CLOCK.at.fromtimestamp(CLAIMS["exp"], CLOCK.at.tzinfo), issuer=ISSUER)
    assert await reader_of(key).read(good) == expected
    assert await with_jwks(good) == expected


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({"typ": "JWT"}, {}),
        ({"typ": "jwt"}, {}),
        ({"typ": "application/at+jwt"}, {}),
        ({"x5t": "abc", "x5c": ["MIIB"], "jku": "http://127.0.0.1:1/"}, {}),
        ({}, {"aud": ["account", AUDIENCE]}),
        ({}, {"exp": CLOCK.seconds(300) + 0.5}),
        ({}, {"iat": CLOCK.seconds(int(LEEWAY.total_seconds())), "nbf": CLOCK.seconds()}),
        ({"typ": "JWT"}, {"typ": "Bearer", "azp": "web", "nonce": "of Keycloak before 24"}),
        ({"typ": "JWT"}, {"token_use": "access", "client_id": "web"}),
    ],
)
async def test_what_providers_do_differently_is_read(header: dict[str, Any], claims: dict[str, Any]) -> None:
    good = token(HEADER | header, CLAIMS | claims, signed)
    assert (await with_pem.read(good)).subject == CLAIMS["sub"]
    assert (await with_jwks(good)).subject == CLAIMS["sub"]


async def test_a_token_without_iat_and_typ_is_read() -> None:
    assert await with_jwks(token({"alg": "RS256", "kid": "rsa"}, without(CLAIMS, "iat"), signed))


async def test_name_and_verified_address_are_handed_on() -> None:
    claims = {"name": "Ada Lovelace", "email": "ada@example.com", "email_verified": True}
    read = await with_pem.read(token(HEADER, CLAIMS | claims, signed))
    assert (read.name, read.email) == ("Ada Lovelace", "ada@example.com")


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "ada@example.com"},
        {"email": "ada@example.com", "email_verified": False},
        {"email": "ada@example.com", "email_verified": "true"},
        {"email": ["ada@example.com"], "email_verified": True},
        {"name": "\ud800"},
        {"name": "x" * 201},
        {"name": {"first": "Ada"}},
        {"name": ""},
    ],
)
async def test_nobody_is_kept_out_for_a_name_or_address_that_is_not_taken(claims: dict[str, Any]) -> None:
    read = await with_pem.read(token(HEADER, CLAIMS | claims, signed))
    assert (read.name, read.email) == (None, None)


async def test_without_a_kid_the_only_key_that_fits_is_taken() -> None:
    assert await with_jwks(token({"alg": "ES256"}, CLAIMS, SIGNERS["ES256"][1]))
    with pytest.raises(Unauthenticated):
        await with_jwks(token({"alg": "RS256"}, CLAIMS, signed))


# ── forgeries; where it matters they are signed with the right key ──


def headers(**changes: Any) -> str:
    return token(HEADER | changes, CLAIMS, signed)


def claims(**changes: Any) -> str:
    return token({"alg": "RS256", "kid": "rsa"}, CLAIMS | changes, signed)


def raw_claims(text: str) -> str:
    name = text.split('"')[1]
    return token(HEADER, json.dumps(without(CLAIMS, name))[:-1] + f", {text}}}", signed)


OTHERS: dict[str, list[Any]] = {
    "iss": [ISSUER + "/", ISSUER.upper(), ISSUER.replace("https", "http"), "", None, 1, [ISSUER], {}],
    "aud": ["other", AUDIENCE + " ", "", None, 1, [], ["other"], [AUDIENCE, 1], [[AUDIENCE]], {AUDIENCE: 1}],
    "sub": ["", None, 1, True, ["248289761001"], "a\x00b", "\ud800", "x" * 256],
    "exp": [None, "soon", str(CLAIMS["exp"]), True, [CLAIMS["exp"]], 10**15, 1e300, -(10**18)],
    "iat": [str(CLAIMS["iat"]), True, [1], CLOCK.seconds(60), 1e300, None],
    "nbf": [str(CLAIMS["iat"]), True, [1], CLOCK.seconds(60), 1e300, None],
    "typ": ["Refresh", "Offline", "ID", "Logout", "bearer", "DPoP", "", None, 1, ["Bearer"]],
    "token_use": ["id", "refresh", "", None, 1, ["access"]],
    "nonce": ["n-0S6_WzA2Mj", None],
    "at_hash": ["77QmUPtjPfzWtF2AnpK9RQ"],
    "c_hash": ["LDktKdoQak3Pk0cnXxCltA"],
    "s_hash": ["LDktKdoQak3Pk0cnXxCltA"],
    "events": [{"http://schemas.openid.net/event/backchannel-logout": {}}],
}
NO_ALGORITHMS: list[Any] = ["none", "None", "NONE", "nOnE", "none ", "", None, False, 0, [], ["none"], {"alg": "none"}]
WRONG_ALGORITHMS: list[Any] = ["none", "rs256", "RS384", "PS256", "ES256", "EdDSA", "HS256", "RS1", "", None, ["RS256"]]
RSA_PEM = pem(RSA.public_key())
RSA_DER = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
RSA_PKCS1 = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
SECRETS = {
    "the PEM": RSA_PEM.encode(),
    "the PEM without its last line break": RSA_PEM.strip().encode(),
    "the PEM of PKCS 1": RSA_PKCS1,
    "the DER": RSA_DER,
    "the modulus": str(JWKS[0]["n"]).encode(),
    "the JWK": json.dumps(JWKS[0]).encode(),
    "nothing": b"",
    "the symmetric key of the set": b"x" * 32,
}
EVIL_JWK = RSAAlgorithm.to_jwk(OTHER_RSA.public_key(), as_dict=True)
FORGERIES: dict[str, str] = {
    **{
        f"alg {alg!r} without a signature": token({"alg": alg, "kid": "rsa"}, CLAIMS, unsigned) for alg in NO_ALGORITHMS
    },
    **{f"alg {alg!r} with a signature of RS256": headers(alg=alg) for alg in WRONG_ALGORITHMS},
    **{
        f"{alg} with {name} as the secret and kid {kid!r}": token(
            {"typ": "at+jwt", "alg": alg, "kid": kid}, CLAIMS, by_hmac(secret, digest)
        )
        for name, secret in SECRETS.items()
        for alg, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512"))
        for kid in ("rsa", "oct")
    },
    "RS256 with a key of one's own": token(HEADER, CLAIMS, by_rsa(OTHER_RSA)),
    "PS256 with a key for RS256 alone": token(
        HEADER | {"alg": "PS256", "kid": "rsa-256"}, CLAIMS, by_rsa(OTHER_RSA, "PS256")
    ),
    "PS512, which is not on the list": token(HEADER | {"alg": "PS512"}, CLAIMS, by_rsa(RSA, "PS512")),
    "a curve's signature under the kid of another key": token(HEADER | {"alg": "ES256"}, CLAIMS, SIGNERS["ES256"][1]),
    "ES256 with a signature of zeros": token({"alg": "ES256", "kid": "ES256"}, CLAIMS, lambda _: bytes(64)),
    "no alg": token(without(HEADER, "alg"), CLAIMS, signed),
    **{f"no {name}": token(HEADER, without(CLAIMS, name), signed) for name in ("iss", "aud", "sub", "exp")},
    **{f"{name} {value!r}": claims(**{name: value}) for name, values in OTHERS.items() for value in values},
    **{
        f"{name} {text}": raw_claims(f'"{name}": {text}')
        for name in ("exp", "iat", "nbf")
        for text in ("NaN", "Infinity", "1e999", "9" * 4000, "9" * 5000)
    },
    "an access token by its header and a refresh token by its payload": token(
        HEADER, CLAIMS | {"typ": "Refresh"}, signed
    ),
    **{
        f"typ of the header {typ!r}": headers(typ=typ)
        for typ in ("logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "id+jwt", "JWE", "", None, 1, ["JWT"])
    },
    **{f"crit {crit!r}": headers(crit=crit, b64=True) for crit in ([], ["b64"], ["exp"], "b64", None, 1, [1])},
    "b64 false": headers(b64=False),
    "b64 false and an empty payload": f"{part(HEADER | {'b64': False, 'crit': ['b64']})}..{S}",
    **{
        f"{name} in the header": token(HEADER | {name: value}, CLAIMS, by_rsa(OTHER_RSA))
        for name, value in {
            "jwk": EVIL_JWK,
            "jku": "http://127.0.0.1:1/jwks.json",
            "x5u": "http://127.0.0.1:1/x.pem",
            "x5c": [b64(RSA_DER)],
        }.items()
    },
    "sub twice": raw_claims('"sub": "1", "sub": "2"'),
    "exp twice": raw_claims(f'"exp": 1, "exp": {CLAIMS["exp"]}'),
    "signature cut": GOOD[:-2],
    "signature empty": f"{H}.{P}.",
    "signature missing": f"{H}.{P}",
    "signature of another token": f"{H}.{P}.{headers(a=1).split('.')[2]}",
    "payload of another token": f"{H}.{part(CLAIMS | {'sub': '2'})}.{S}",
    "padding": f"{GOOD}==",
    "a JWE": ".".join([part({"alg": "RSA-OAEP", "enc": "A256GCM"}), S, S, P, S]),
    "empty": "",
    "two dots": "..",
    "not ASCII": f"ä{GOOD}",
    "half a surrogate pair": f"{GOOD}\ud800",
    "the longest and one more": claims(more="x" * MAX_TOKEN),
    "a header that is no JSON": token("{", CLAIMS, signed),
    "a header nested deeply": token("[" * 3000, CLAIMS, signed),
    **{f"a payload {text[:9]!r}": token(HEADER, text, signed) for text in ("[]", "null", "1", "{", "[" * 3000)},
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forgery_is_refused_and_nobody_learns_why(name: str) -> None:
    assert await refusal(FORGERIES[name]) == "The access token is not valid; sign in again."


@pytest.mark.parametrize(
    "kid", ["../../../../dev/null", "x' UNION SELECT 'AAAA' --", "http://127.0.0.1:1/key", "\x00", "", "RSA", "rsa-256"]
)
async def test_a_kid_that_names_another_key_or_none_is_refused(kid: str) -> None:
    with pytest.raises(Unauthenticated):
        await with_jwks(headers(kid=kid))


@pytest.mark.parametrize("name", ["jku", "x5u"])
async def test_an_address_in_a_token_is_never_asked(name: str) -> None:
    async with key_server() as server:
        server.offer(EVIL_JWK | {"kid": "rsa"})
        evil = f"{server.url.removesuffix('jwks.json')}evil.json"
        with pytest.raises(Unauthenticated):
            await with_jwks(token(HEADER | {name: evil}, CLAIMS, by_rsa(OTHER_RSA)))
        assert server.paths == []


@pytest.mark.parametrize("kid", [None, 1, ["rsa"], {"kid": "rsa"}])
async def test_a_kid_of_a_wrong_type_is_refused(kid: Any) -> None:
    await refusal(headers(kid=kid))


async def test_a_token_that_was_good_once_says_that_it_has_expired() -> None:
    assert "has expired" in await refusal(claims(exp=CLOCK.seconds()))


@pytest.mark.parametrize(
    "forge",
    [
        lambda: token(HEADER, CLAIMS | {"exp": 1}, by_rsa(OTHER_RSA)),
        lambda: claims(exp=1, aud="other"),
        lambda: claims(exp=1, typ="Refresh"),
    ],
)
async def test_an_expired_token_with_another_fault_does_not_say_that_it_has_expired(forge: Callable[[], str]) -> None:
    assert "not valid" in await refusal(forge())


async def test_a_token_made_by_pyjwt_itself_is_read() -> None:
    assert (await with_pem.read(jwt.encode(CLAIMS, RSA, "RS256"))).subject == CLAIMS["sub"]


# ── at random ──


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.text(st.characters(), max_size=20))
async def test_no_token_with_a_piece_replaced_is_taken(start: int, length: int, piece: str) -> None:
    forged = GOOD[:start] + piece + GOOD[start + length :]
    assume(forged != GOOD)
    with pytest.raises(Unauthenticated):
        await with_pem.read(forged)


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5)


@given(JSON)
async def test_no_value_in_header_or_payload_crashes_the_reader(value: Any) -> None:
    good = [headers(**{name: value}) for name in ("typ", "kid", "jwk", "b64", "alg", "crit")]
    good += [claims(**{name: value}) for name in (*OTHERS, "email", "name", "email_verified")]
    for forged in good:
        try:
            read = await with_pem.read(forged)
        except Unauthenticated:
            continue
        assert isinstance(read.subject, str)
        assert read.expires_at > CLOCK.now()
