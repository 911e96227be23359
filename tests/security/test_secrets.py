"""Secrets: from files as well as from the environment, and never in anything that is said, printed or logged."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from providers.chat import Provider
from tertulia.catalogue import configured_providers
from tertulia.cli import app
from tertulia.settings import Settings, SettingsError, is_path, is_secret, load_settings, variable
from tests.tertulia.commands import tertulia

FIELDS = Settings.model_fields
CANARY = "c4nary-71c2"
ADDRESS = f"postgresql://me:{CANARY}@127.0.0.1:1/chat"
ENDPOINT = f"http://me:{CANARY}@127.0.0.1:1/v1?api-key={CANARY}"
FILE = f"""
[providers.house]
base_url = "http://me:{CANARY}@127.0.0.1:1/v1"
api_key_env = "HOUSE_KEY"
models = [{{name = "small"}}]
"""
Write = Callable[[str, str | bytes], str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file and name it in NAME_FILE; its name."""

    def write(name: str, content: str | bytes) -> str:
        path = Path(f"{name.lower()}.txt").absolute()
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setenv(f"{name}_FILE", str(path))
        return str(path)

    return write


def refusal(run: Callable[[], Any] = load_settings) -> str:
    with pytest.raises(SettingsError) as caught:
        run()
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    chain = [caught.value, caught.value.__cause__, caught.value.__cause__ and caught.value.__cause__.__cause__]
    assert CANARY not in "".join(f"{link}{link!r}" for link in chain)
    return sentence


# ── files ──


def test_every_secret_may_be_in_a_file(secret: Write) -> None:
    secret("DATABASE_URL", ADDRESS + "\n")
    secret("OPENAI_API_KEY", CANARY + "\r\n")
    secret("TERTULIA_METRICS_TOKEN", f" {CANARY}-long\n\n")
    settings = load_settings()
    assert settings.database_url == ADDRESS
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == CANARY
    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == f" {CANARY}-long"


@pytest.mark.parametrize(
    "name", [variable(name) for name, field in Settings.model_fields.items() if not is_path(field)]
)
def test_every_setting_may_be_in_a_file(name: str, secret: Write) -> None:
    secret(name, "")
    assert refusal() == f"{name}_FILE names a file that is empty."


@pytest.mark.parametrize("name", ["TERTULIA_CONFIG_FILE", "TERTULIA_CACHE_FOLDER_FILE"])
def test_what_is_the_name_of_a_file_anyway_has_no_second_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "providers.toml")
    assert refusal().startswith(f"{name} is not a setting; did you mean {name.removesuffix('_FILE')}?")


def test_a_file_may_be_named_in_dot_env(secret: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret("TERTULIA_MODEL", "large\n")
    monkeypatch.delenv("TERTULIA_MODEL_FILE")
    Path(".env").write_text(f"TERTULIA_MODEL=\ntertulia_model_file={path}\n")
    assert load_settings().model == "large"


def test_an_empty_name_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "")
    assert load_settings().openai_api_key is None


def test_a_value_and_a_file_for_it_are_one_too_many(secret: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    secret("OPENAI_API_KEY", CANARY)
    Path(".env").write_text("OPENAI_API_KEY=other\n")
    assert refusal() == "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set; take one of them away."
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    assert refusal() == "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set; take one of them away."


@pytest.mark.parametrize(("content", "reason"), [(" \n", "empty"), (b"\xff\xfe", "not UTF-8 text")])
def test_a_file_without_a_secret_is_refused(secret: Write, content: str | bytes, reason: str) -> None:
    secret("OPENAI_API_KEY", content)
    assert refusal() == f"OPENAI_API_KEY_FILE names a file that is {reason}."


@pytest.mark.parametrize("path", [CANARY, "/", f"/{CANARY}/x"])
def test_a_file_that_cannot_be_read_is_not_called_by_its_name_which_may_be_the_secret(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_FILE", path)
    assert refusal().startswith("OPENAI_API_KEY_FILE names a file that cannot be read: ")


def test_a_wrong_value_in_a_file_is_not_quoted(secret: Write) -> None:
    secret("TERTULIA_PORT", CANARY)
    assert refusal().startswith("TERTULIA_PORT_FILE should be a valid integer")


def test_keys_of_further_providers_may_be_in_files(secret: Write) -> None:
    Path("providers.toml").write_text(FILE)
    secret("HOUSE_KEY", CANARY + "\n")
    assert [provider.api_key for provider in of_the_file()] == [CANARY]
    secret("HOUSE_KEY", "")
    assert refusal(of_the_file) == "HOUSE_KEY_FILE names a file that is empty."


# ── what is never said ──


def test_a_key_that_stands_where_its_variable_belongs_is_not_repeated() -> None:
    Path("providers.toml").write_text(FILE.replace("HOUSE_KEY", CANARY))
    assert "providers.house.api_key_env should be the name of a variable" in refusal(of_the_file)


def test_a_key_that_stands_in_the_file_is_not_repeated() -> None:
    Path("providers.toml").write_text(FILE.replace("api_key_env", "api_key").replace("HOUSE_KEY", CANARY))
    assert "api_key is no setting" in refusal(of_the_file)


def of_the_file() -> list[Provider]:
    return configured_providers(load_settings(config=Path("providers.toml")))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:a@{CANARY}@db/chat",
        f"postgresql://me:{CANARY}@db:port/chat",
        f"mysql://me:{CANARY}@db/chat",
        f"postgresql://db/chat?password={CANARY}",
        f"me:{CANARY}@db",
    ],
)
def test_an_address_of_a_database_that_is_wrong_is_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert refusal().startswith("DATABASE_URL ")


def test_a_secret_that_is_too_short_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERTULIA_METRICS_TOKEN", CANARY)
    assert refusal().startswith("TERTULIA_METRICS_TOKEN should have at least 16")


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("providers.toml").write_text(FILE)
    for name, value in {
        "DATABASE_URL": ADDRESS,
        "OPENAI_API_KEY": CANARY,
        "OPENAI_BASE_URL": ENDPOINT,
        "TERTULIA_METRICS_TOKEN": f"{CANARY}-long-enough",
        "TERTULIA_CONFIG": "providers.toml",
        "HOUSE_KEY": CANARY,
    }.items():
        monkeypatch.setenv(name, value)


def test_neither_the_settings_nor_the_providers_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    everything(monkeypatch)
    settings = load_settings()
    shown = f"{settings!r} {settings} {settings.model_dump_json(include={'openai_api_key', 'metrics_token'})}"
    assert CANARY not in shown + repr(settings.config_file()) + repr(configured_providers(settings))


def test_every_secret_is_known_as_one() -> None:
    secrets = {variable(name) for name, field in FIELDS.items() if is_secret(field)}
    assert secrets >= {"DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "TERTULIA_METRICS_TOKEN"}
    assert secrets >= {name for name in map(variable, FIELDS) if re.search("(?<!PUBLIC)_(KEY|TOKEN)$", name)}


@pytest.mark.parametrize("command", [["config", "show"], ["doctor"], ["migrate"]])
def test_no_command_shows_a_secret(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    everything(monkeypatch)
    ended = CliRunner().invoke(app, command)
    assert ended.output
    assert CANARY not in ended.output + repr(ended.exception)


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",), ("migrate",)])
async def test_a_process_that_does_not_get_its_database_says_so_without_the_password(
    command: tuple[str, ...], secret: Write
) -> None:
    path = secret("DATABASE_URL", ADDRESS)
    ended = await tertulia(*command, DATABASE_URL_FILE=path, TERTULIA_LOG_LEVEL="debug", OPENAI_API_KEY=CANARY)
    assert ended.code == 1
    assert "database" in ended.err
    assert CANARY not in ended.out + ended.err


async def test_config_show_marks_what_it_does_not_show() -> None:
    ended = await tertulia("config", "show", OPENAI_BASE_URL=ENDPOINT, DATABASE_URL=ADDRESS)
    assert "OPENAI_BASE_URL=http://***@127.0.0.1:1/v1?***" in ended.out
    assert "DATABASE_URL=postgresql://me:***@127.0.0.1:1/chat" in ended.out
    assert CANARY not in ended.out
