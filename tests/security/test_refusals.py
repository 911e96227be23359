"""What a server refuses to start with, each as a command: one sentence that names the setting, and exit code 1."""

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tertulia.cli import app
from tests.patience import PATIENCE_SECONDS
from tests.tertulia.commands import started, tertulia

QUIET = {"TERTULIA_PORT": "0", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
POSTGRES = "postgresql://127.0.0.1:1/chat"
GOOD_KEY = "2Vq8nT5cXw0RzK7uYp3HsD9fLbGj1MaE"
ACCOUNTS = {"TERTULIA_AUTH": "password"}
PROVIDER = {
    "TERTULIA_AUTH": "jwt",
    "TERTULIA_JWT_ISSUER": "https://id.example.com/",
    "TERTULIA_JWT_AUDIENCE": "tertulia",
    "TERTULIA_JWT_JWKS_URL": "https://id.example.com/keys",
}
OPEN = {"TERTULIA_HOST": "0.0.0.0", "TERTULIA_PORT": "0"}
COOKIE = {"TERTULIA_REFRESH_COOKIE": "true"}


def key(value: str) -> dict[str, str]:
    return ACCOUNTS | {"TERTULIA_SECRET_KEY": value}


REFUSED = {
    "everybody's user on a public address": ("TERTULIA_HOST", OPEN),
    "everybody's user on all of IPv6": ("TERTULIA_HOST", OPEN | {"TERTULIA_HOST": "::"}),
    "a short key": ("TERTULIA_SECRET_KEY", key("Zx81-short")),
    "a key that repeats itself": ("TERTULIA_SECRET_KEY", key("aB3" * 20)),
    "a key of one character": ("TERTULIA_SECRET_KEY", key("x" * 64)),
    "a key from documentation": ("TERTULIA_SECRET_KEY", key("change-me-please-this-is-a-secret-key")),
    "another key from documentation": ("TERTULIA_SECRET_KEY", key("your-secret-key-here-0123456789abcdef")),
    "PostgreSQL without a key": ("TERTULIA_SECRET_KEY", ACCOUNTS | {"DATABASE_URL": POSTGRES}),
    "a public address without a key": ("TERTULIA_SECRET_KEY", ACCOUNTS | OPEN),
    "cookies for all origins": (
        "TERTULIA_ALLOWED_ORIGINS",
        key(GOOD_KEY) | COOKIE | {"TERTULIA_ALLOWED_ORIGINS": "*"},
    ),
    "cookies for all origins among others": (
        "TERTULIA_ALLOWED_ORIGINS",
        key(GOOD_KEY) | COOKIE | {"TERTULIA_ALLOWED_ORIGINS": "https://chat.example.com, *"},
    ),
    "cookies without accounts": ("TERTULIA_REFRESH_COOKIE", COOKIE),
    "tokens of any issuer": ("TERTULIA_JWT_ISSUER", PROVIDER | {"TERTULIA_JWT_ISSUER": ""}),
    "tokens for any audience": ("TERTULIA_JWT_AUDIENCE", PROVIDER | {"TERTULIA_JWT_AUDIENCE": ""}),
    "tokens without keys": ("TERTULIA_JWT_JWKS_URL", PROVIDER | {"TERTULIA_JWT_JWKS_URL": ""}),
    "two sources of keys": ("TERTULIA_JWT_PUBLIC_KEY", PROVIDER | {"TERTULIA_JWT_PUBLIC_KEY": "-----BEGIN"}),
    "keys by http": ("TERTULIA_JWT_JWKS_URL", PROVIDER | {"TERTULIA_JWT_JWKS_URL": "http://id.example.com/keys"}),
    "a public key that is none": (
        "TERTULIA_JWT_PUBLIC_KEY",
        PROVIDER | {"TERTULIA_JWT_JWKS_URL": "", "TERTULIA_JWT_PUBLIC_KEY": "not a key"},
    ),
    "a way of signing in that is none": ("TERTULIA_AUTH", {"TERTULIA_AUTH": "basic"}),
    "a proxy anywhere": ("TERTULIA_TRUSTED_PROXIES", {"TERTULIA_TRUSTED_PROXIES": "0.0.0.0/0"}),
    "a short token for metrics": ("TERTULIA_METRICS_TOKEN", {"TERTULIA_METRICS_TOKEN": "short"}),
}


AS_PROCESSES = ("everybody's user on a public address", "a short key", "cookies for all origins", "keys by http")
"""The others run in this process, which takes a second less each."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(said: str, code: int, setting: str, environment: dict[str, str]) -> None:
    assert code == 1
    assert "Traceback" not in said
    sentences = [line for line in said.splitlines() if "TERTULIA_" in line]
    assert len(sentences) == 1, said
    assert setting in sentences[0]
    secret = environment.get("TERTULIA_SECRET_KEY")
    assert not secret or secret not in said


@pytest.mark.parametrize(("setting", "environment"), REFUSED.values(), ids=REFUSED.keys())
def test_a_server_that_nobody_would_want_does_not_start(setting: str, environment: dict[str, str]) -> None:
    ended = CliRunner().invoke(app, ["serve"], env=QUIET | environment)
    check(ended.output, ended.exit_code, setting, environment)


@pytest.mark.parametrize("name", AS_PROCESSES)
async def test_nor_does_it_as_a_process(name: str) -> None:
    ended = await tertulia("serve", **QUIET | REFUSED[name][1])
    check(ended.out + ended.err, ended.code, *REFUSED[name])


@pytest.mark.parametrize("wanted", [False, True])
async def test_everybodys_user_beyond_loopback_must_be_wanted_and_is_warned_of(wanted: bool) -> None:
    """127.1 is the same address as 127.0.0.1, but to the settings a name like others, which may be anywhere."""
    process = await started("serve", **QUIET, TERTULIA_HOST="127.1", TERTULIA_ALLOW_ANONYMOUS=str(wanted))
    assert process.stdout is not None
    try:
        greeting = await asyncio.wait_for(process.stdout.read(100), PATIENCE_SECONDS)
    finally:
        if process.returncode is None and wanted:
            process.terminate()
        _, said = await process.communicate()
    assert (b"is up" in greeting) is wanted
    assert (b"everybody who reaches this server shares one user" in said) is wanted
    assert (b"TERTULIA_ALLOW_ANONYMOUS=true" in said) is not wanted
    assert wanted or process.returncode == 1
