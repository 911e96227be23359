"""Our own access tokens: what is read from a good one, and that no forgery is taken for one."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import assume, given
from hypothesis import strategies as st

from domain.accounts import ACCESS_LIFETIME, Claims
from domain.errors import Unauthenticated
from tertulia.tokens import AccessTokens, signing_key_from
from tertulia.verification import LEEWAY, MAX_TOKEN
from tests.security.jose import FixedClock, b64, by_hmac, by_rsa, digest_of, part, token, unsigned, without

OTHER_NAMES: list[Any] = ["other", "Tertulia", "tertulia ", "", None, 1, True, ["tertulia"], ["tertulia", "other"], {}]
OTHER_IDS: list[Any] = ["", 1, True, ["user_1"], {"id": "user_1"}, "a\x00b", "\ud800", "x" * 256]
OTHER_PAYLOADS: dict[str, str | bytes] = {
    "a list": "[]",
    "null": "null",
    "a text": '"user_1"',
    "a number": "1",
    "empty JSON": "{}",
    "no JSON": "{",
    "nested deeply": "[" * 3000,
    "no UTF-8": b"\xff\xfe",
    "UTF-16": '{"sub": "user_1"}'.encode("utf-16"),
}
SECRET = "Kq3vX8wZ1bN6tR0yH5mJ2cF9pL4sD7gA"
CLOCK = FixedClock()
KEY = signing_key_from(SECRET)
OTHER_KEY = signing_key_from(SECRET[::-1])
RSA = rsa.generate_private_key(65537, 2048)
HEADER = {"typ": "at+jwt", "alg": "HS256", "kid": digest_of(KEY)}
CLAIMS: dict[str, Any] = {
    "iss": "tertulia",
    "aud": "tertulia",
    "sub": "user_1",
    "sid": "session_1",
    "iat": CLOCK.seconds(),
    "exp": CLOCK.seconds(900),
    "jti": "1",
}
OTHER_TIMES: list[Any] = [str(CLAIMS["exp"]), "soon", [CLAIMS["exp"]], {}, 10**15, 10**300, 1e300, True]
tokens = AccessTokens(SECRET, CLOCK)
signed = by_hmac(KEY)
GOOD = token(HEADER, CLAIMS, signed)
EXPIRED = token(HEADER, CLAIMS | {"exp": CLOCK.seconds()}, signed)


async def refusal(forged: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await tokens.read(forged)
    return caught.value.message


# ── good ones ──


async def test_an_issued_token_is_read_as_what_it_was_issued_for() -> None:
    claims = Claims("user_1", CLOCK.now() + ACCESS_LIFETIME, session_id="session_1")
    assert await tokens.read(tokens.issue(claims)) == claims


async def test_a_token_made_by_hand_like_ours_is_read() -> None:
    assert (await tokens.read(GOOD)).subject == "user_1"


async def test_no_two_tokens_are_alike() -> None:
    claims = Claims("user_1", CLOCK.now() + ACCESS_LIFETIME, session_id="session_1")
    assert tokens.issue(claims) != tokens.issue(claims)


async def test_a_token_of_a_server_whose_clock_is_a_little_ahead_is_read() -> None:
    later = CLOCK.seconds(int(LEEWAY.total_seconds()))
    assert await tokens.read(token(HEADER, CLAIMS | {"iat": later, "nbf": later}, signed))


async def test_a_token_ends_in_the_second_it_says() -> None:
    assert await tokens.read(token(HEADER, CLAIMS | {"exp": CLOCK.seconds(1)}, signed))
    assert await refusal(EXPIRED) == "The access token has expired; refresh the session and try again."


async def test_the_secret_itself_signs_nothing() -> None:
    assert SECRET.encode() != KEY
    await refusal(token(HEADER, CLAIMS, by_hmac(SECRET.encode())))


async def test_a_secret_may_hold_bytes_that_are_no_text() -> None:
    other = AccessTokens(SECRET + "\udcff", CLOCK)
    claims = Claims("user_1", CLOCK.now() + ACCESS_LIFETIME, session_id="session_1")
    assert await other.read(other.issue(claims)) == claims


async def test_tokens_of_another_secret_are_refused() -> None:
    other = AccessTokens(SECRET[::-1], CLOCK)
    await refusal(other.issue(Claims("user_1", CLOCK.now() + timedelta(minutes=1), session_id="session_1")))


# ── forgeries, most of them signed with the right key, so that nothing but their fault speaks against them ──


def headers(**changes: Any) -> str:
    return token(HEADER | changes, CLAIMS, signed)


def claims(**changes: Any) -> str:
    return token(HEADER, CLAIMS | changes, signed)


def raw_claims(text: str) -> str:
    """A claim as text in place of those of its name, for what no JSON writer makes."""
    name = text.split('"')[1]
    return token(HEADER, json.dumps(without(CLAIMS, name))[:-1] + f", {text}}}", signed)


H, P, S = GOOD.split(".")
FOREIGN = {"typ": "at+jwt", "kid": digest_of(KEY)}
FORGERIES: dict[str, str] = {
    **{
        f"alg {alg!r} without a signature": token(HEADER | {"alg": alg}, CLAIMS, unsigned)
        for alg in ("none", "None", "NONE", "nOnE", "none ", "", None, False, 0, [], ["none"], {"alg": "none"})
    },
    **{
        f"alg {alg!r} with the signature of HS256": headers(alg=alg)
        for alg in ("none", "hs256", "HS256 ", "HS384", "RS256", "A128KW", "", None, 256, ["HS256"], {"HS256": 1})
    },
    "no alg": token(without(HEADER, "alg"), CLAIMS, signed),
    "HS512 with the right key": token(HEADER | {"alg": "HS512"}, CLAIMS, by_hmac(KEY, "sha512")),
    "RS256 with a key of one's own": token(HEADER | {"alg": "RS256"}, CLAIMS, by_rsa(RSA)),
    "PS256 with a key of one's own": token(HEADER | {"alg": "PS256"}, CLAIMS, by_rsa(RSA, "PS256")),
    "HS256 with an empty key": token(HEADER, CLAIMS, by_hmac(b"")),
    "HS256 with a key of zeros": token(HEADER, CLAIMS, by_hmac(bytes(32))),
    "HS256 with another key": token(HEADER, CLAIMS, by_hmac(OTHER_KEY)),
    **{f"{name} {value!r}": claims(**{name: value}) for name in ("iss", "aud") for value in OTHER_NAMES},
    **{
        f"typ {typ!r}": headers(typ=typ)
        for typ in ("JWT", "jwt", "AT+JWT", "application/at+jwt", "refresh", "", None, 1, ["at+jwt"])
    },
    "no typ": token(without(HEADER, "typ"), CLAIMS, signed),
    **{f"no {name}": token(HEADER, without(CLAIMS, name), signed) for name in CLAIMS},
    **{f"{name} null": claims(**{name: None}) for name in CLAIMS},
    **{f"{name} {value!r}": claims(**{name: value}) for name in ("sub", "sid") for value in OTHER_IDS},
    "jti a number": claims(jti=7),
    **{
        f"crit {crit!r}": headers(crit=crit, b64=True)
        for crit in ([], ["b64"], ["exp"], ["unknown"], "b64", None, 1, [1], {"b64": 1})
    },
    "b64 false": headers(b64=False),
    "b64 false and crit": headers(b64=False, crit=["b64"]),
    "b64 false and an empty payload": f"{part(HEADER | {'b64': False, 'crit': ['b64']})}..{S}",
    **{
        f"kid {kid!r}": headers(kid=kid)
        for kid in (
            digest_of(OTHER_KEY),
            digest_of(KEY).upper(),
            digest_of(KEY)[:-1],
            "../../../../dev/null",
            "/proc/sys/kernel/randomize_va_space",
            "x' UNION SELECT 'AAAA' --",
            "http://127.0.0.1:1/key",
            "\x00",
            "",
            None,
            1,
            ["a"],
        )
    },
    "/dev/null as the key": token(HEADER | {"kid": "../../dev/null"}, CLAIMS, by_hmac(b"\n")),
    "no kid": token(without(HEADER, "kid"), CLAIMS, signed),
    **{
        f"{name} in the header": token(HEADER | {name: value}, CLAIMS, by_hmac(OTHER_KEY))
        for name, value in {
            "jwk": {"kty": "oct", "k": b64(OTHER_KEY)},
            "jku": "http://127.0.0.1:1/jwks.json",
            "x5u": "http://127.0.0.1:1/x.pem",
            "x5c": ["MIIB"],
        }.items()
    },
    "an RSA key as jwk in the header": token(
        HEADER | {"alg": "RS256", "jwk": jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)},
        CLAIMS,
        by_rsa(RSA),
    ),
    "expired": EXPIRED,
    "expired long ago": claims(exp=1),
    "an exp before all dates": claims(exp=-(10**18)),
    **{
        f"{name} in the future": claims(**{name: CLOCK.seconds(int(LEEWAY.total_seconds()) + 1)})
        for name in ("iat", "nbf")
    },
    **{f"{name} {value!r}": claims(**{name: value}) for name in ("exp", "iat", "nbf") for value in OTHER_TIMES},
    **{
        f"{name} {text}": raw_claims(f'"{name}": {text}')
        for name in ("exp", "iat", "nbf")
        for text in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 4000, "9" * 5000, "0x7fffffff", "1_000")
    },
    "exp twice": raw_claims(f'"exp": 1, "exp": {CLAIMS["exp"]}'),
    "sub twice": raw_claims('"sub": "user_1", "sub": "user_2"'),
    "a name twice further inside": raw_claims('"more": {"a": 1, "a": 2}'),
    "signature cut": GOOD[:-1],
    "signature cut to one byte": f"{H}.{P}.{S[:2]}",
    "signature empty": f"{H}.{P}.",
    "signature missing": f"{H}.{P}",
    "signature of zeros": f"{H}.{P}.{b64(bytes(32))}",
    "signature of another token": f"{H}.{P}.{token(HEADER, CLAIMS | {'sub': 'user_2'}, signed).split('.')[2]}",
    "payload of another token": f"{H}.{part(CLAIMS | {'sub': 'user_2'})}.{S}",
    "header of another token": f"{part(HEADER | {'a': 1})}.{P}.{S}",
    "padding after the signature": f"{GOOD}=",
    "padding after each part": f"{H}==.{P}==.{S}==",
    "a line break at the end": f"{GOOD}\n",
    "a blank in front": f" {GOOD}",
    "the word Bearer in front": f"Bearer {GOOD}",
    "base64 of the other alphabet": f"{H}.{P}.{'+/' * 21}+",
    "four parts": f"{GOOD}.{S}",
    "a JWE": f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..{b64(bytes(12))}.{P}.{b64(bytes(16))}",
    "a JWE of five full parts": ".".join([part({"alg": "RSA-OAEP", "enc": "A256GCM"}), S, S, P, S]),
    "the JSON form": json.dumps({"payload": P, "protected": H, "signature": S}),
    "empty": "",
    "one dot": ".",
    "two dots": "..",
    "four dots": "....",
    "no header": f".{P}.{S}",
    "no payload": f"{H}..{S}",
    "no dot": H,
    "not base64": "!.!.!",
    "not ASCII": GOOD.replace("e", "е", 1),
    "half a surrogate pair": f"{GOOD}\ud800",
    "a NUL": f"{GOOD}\x00",
    "the longest and one more": claims(more="x" * MAX_TOKEN),
    "huge": "a" * 10_000_000,
    "a million dots": "." * 1_000_000,
    "a refresh token": "rt_" + "a" * 43,
    "an API key": "tk_" + "a" * 43,
    "a header that is no JSON": token("{", CLAIMS, signed),
    "a header that is a list": token("[]", CLAIMS, signed),
    "a header nested deeply": token("[" * 3000, CLAIMS, signed),
    **{f"a payload that is {name}": token(HEADER, payload, signed) for name, payload in OTHER_PAYLOADS.items()},
}


@pytest.mark.parametrize("name", [name for name in FORGERIES if not name.startswith("expired")])
async def test_a_forgery_is_refused_and_nobody_learns_why(name: str) -> None:
    assert await refusal(FORGERIES[name]) == "The access token is not valid; sign in again."


@pytest.mark.parametrize("name", ["expired", "expired long ago"])
async def test_a_token_that_was_good_once_says_that_it_has_expired(name: str) -> None:
    assert "has expired" in await refusal(FORGERIES[name])


@pytest.mark.parametrize(
    "forge",
    [
        lambda: token(HEADER, CLAIMS | {"exp": 1}, by_hmac(OTHER_KEY)),
        lambda: token(HEADER, CLAIMS | {"exp": 1, "aud": "other"}, signed),
        lambda: token(HEADER, CLAIMS | {"exp": 1, "nbf": CLOCK.seconds(60)}, signed),
        lambda: token(HEADER, without(CLAIMS | {"exp": 1}, "sid"), signed),
    ],
)
async def test_an_expired_token_with_another_fault_does_not_say_that_it_has_expired(forge: Callable[[], str]) -> None:
    assert await refusal(forge()) == "The access token is not valid; sign in again."


# ── at random ──

PRINTABLE = st.characters(codec="utf-8")


@given(st.integers(0, len(GOOD) - 1), PRINTABLE)
async def test_no_token_with_another_character_is_taken(place: int, character: str) -> None:
    assume(GOOD[place] != character)
    await refusal(GOOD[:place] + character + GOOD[place + 1 :])


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.text(PRINTABLE, max_size=20))
async def test_no_token_with_a_piece_replaced_is_taken(start: int, length: int, piece: str) -> None:
    forged = GOOD[:start] + piece + GOOD[start + length :]
    assume(forged != GOOD)
    await refusal(forged)


@given(st.text(st.characters(), max_size=300))
async def test_no_text_is_taken(text: str) -> None:
    await refusal(text)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
async def test_no_value_of_any_claim_crashes_the_reader(value: Any) -> None:
    for name in ("iss", "aud", "sub", "sid", "iat", "nbf", "exp", "jti"):
        try:
            claims = await tokens.read(token(HEADER, CLAIMS | {name: value}, signed))
        except Unauthenticated:
            continue
        assert isinstance(claims.subject, str)
        assert claims.expires_at > CLOCK.now()
