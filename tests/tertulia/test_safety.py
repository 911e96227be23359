"""What a server does not start with: one sentence for each, which names the setting and the cure."""

from pathlib import Path
from typing import Any

import pytest

from tertulia.safety import check_safety
from tertulia.settings import SettingsError, load_settings
from tests.tertulia.commands import tertulia

JWT = {"auth": "jwt", "jwt_issuer": "https://id.example/", "jwt_audience": "tertulia"}
URL = "https://id.example/keys"
UNSAFE: dict[str, tuple[dict[str, Any], str, str]] = {
    "strangers without accounts": ({"host": "0.0.0.0"}, "TERTULIA_HOST", "TERTULIA_AUTH=password"),
    "any origin with cookies": (
        {"auth": "password", "refresh_cookie": True, "allowed_origins": "https://a.example,*"},
        "TERTULIA_ALLOWED_ORIGINS",
        "Name the origins",
    ),
    "cookies without accounts": ({"refresh_cookie": True}, "TERTULIA_REFRESH_COOKIE", "TERTULIA_AUTH=password"),
    "cookies of a provider": (
        JWT | {"jwt_jwks_url": URL, "refresh_cookie": True},
        "TERTULIA_REFRESH_COOKIE",
        "TERTULIA_AUTH=password",
    ),
    "no issuer": (JWT | {"jwt_issuer": None, "jwt_jwks_url": URL}, "TERTULIA_AUTH", "TERTULIA_JWT_ISSUER"),
    "no audience": (JWT | {"jwt_audience": "", "jwt_jwks_url": URL}, "TERTULIA_AUTH", "TERTULIA_JWT_AUDIENCE"),
    "no keys": (JWT, "TERTULIA_AUTH", "TERTULIA_JWT_JWKS_URL or TERTULIA_JWT_PUBLIC_KEY"),
    "keys from two places": (
        JWT | {"jwt_jwks_url": URL, "jwt_public_key": "pem"},
        "TERTULIA_AUTH",
        "either TERTULIA_JWT_JWKS_URL or TERTULIA_JWT_PUBLIC_KEY",
    ),
}
SAFE: dict[str, dict[str, Any]] = {
    "nothing set": {},
    "accounts for everybody": {"host": "0.0.0.0", "auth": "password"},
    "one user on purpose": {"host": "0.0.0.0", "allow_anonymous": True},
    "cookies for one front end": {
        "auth": "password",
        "refresh_cookie": True,
        "allowed_origins": "https://chat.example.com",
    },
    "any origin without cookies": {"auth": "password", "allowed_origins": "*"},
    "a provider by address": JWT | {"jwt_jwks_url": URL, "host": "0.0.0.0"},
    "a provider by key": JWT | {"jwt_public_key": "pem"},
}


@pytest.mark.parametrize("case", UNSAFE)
def test_what_nobody_would_want_is_refused_by_the_name_of_its_setting(case: str) -> None:
    settings, name, cure = UNSAFE[case]
    with pytest.raises(SettingsError) as caught:
        check_safety(load_settings(**settings))
    sentence = str(caught.value)
    assert sentence.startswith(name)
    assert cure in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize("case", SAFE)
def test_what_somebody_may_want_is_let_be(case: str) -> None:
    check_safety(load_settings(**SAFE[case]))


STARTS: dict[str, tuple[dict[str, str], str]] = {
    "cookies without accounts": ({"TERTULIA_REFRESH_COOKIE": "true"}, "TERTULIA_REFRESH_COOKIE"),
    "a weak secret": ({"TERTULIA_AUTH": "password", "TERTULIA_SECRET_KEY": "s3cret"}, "TERTULIA_SECRET_KEY"),
    "a provider without a name": ({"TERTULIA_AUTH": "jwt"}, "TERTULIA_JWT_ISSUER"),
    "keys without encryption": (
        {
            "TERTULIA_AUTH": "jwt",
            "TERTULIA_JWT_ISSUER": "i",
            "TERTULIA_JWT_AUDIENCE": "a",
            "TERTULIA_JWT_JWKS_URL": "http://id.example/keys",
        },
        "TERTULIA_JWT_JWKS_URL",
    ),
    "a key that is none": (
        {
            "TERTULIA_AUTH": "jwt",
            "TERTULIA_JWT_ISSUER": "i",
            "TERTULIA_JWT_AUDIENCE": "a",
            "TERTULIA_JWT_PUBLIC_KEY": "s3cret",
        },
        "TERTULIA_JWT_PUBLIC_KEY",
    ),
}


@pytest.mark.parametrize("case", STARTS)
async def test_a_real_server_does_not_start_and_says_why_without_a_traceback(case: str, tmp_path: Path) -> None:
    environment, name = STARTS[case]
    ended = await tertulia("serve", "--port", "0", DATABASE_URL=f"sqlite:///{tmp_path}/test.db", **environment)
    assert ended.code == 1
    assert name in ended.err
    assert "Traceback" not in ended.err
    assert "s3cret" not in ended.out + ended.err
