"""Settings: where they come from, what is wrong with them in one sentence, and what is never shown of them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tertulia.catalogue import configured_providers, with_default
from tertulia.cli import app
from tertulia.safety import check_safety
from tertulia.settings import Settings, SettingsError, load_settings, variable
from tests.tertulia.commands import ROOT, tertulia

WRONG = {
    "DATABASE_URL": ("mysql://me:s3cret@db/chat", "sqlite:// and postgresql://"),
    "TERTULIA_DATABASE_POOL_SIZE": ("1", "greater than or equal to 2"),
    "TERTULIA_DATABASE_POOL_TIMEOUT": ("0", "greater than 0"),
    "TERTULIA_DATABASE_STATEMENT_TIMEOUT": ("0", "greater than 0"),
    "TERTULIA_WORKER": ("2", "a valid boolean"),
    "TERTULIA_RECOVERY": ("sometimes", "'continue' or 'keep'"),
    "OPENAI_BASE_URL": ("ftp://s3cret@models", "http:// or https://"),
    "TERTULIA_CONTINUATION": ("guess", "'prefill' or 'instruct'"),
    "TERTULIA_PORT": ("eight", "a valid integer"),
    "TERTULIA_AUTH": ("sso", "'none', 'password' or 'jwt'"),
    "TERTULIA_REGISTRATION": ("yes", "'open' or 'closed'"),
    "TERTULIA_REFRESH_COOKIE": ("perhaps", "a valid boolean"),
    "TERTULIA_LOGINS_PER_ADDRESS": ("-1", "greater than or equal to 0"),
    "TERTULIA_REGISTRATIONS_PER_ADDRESS": ("many", "a valid integer"),
    "TERTULIA_ANONYMOUS_OPERATIONS_PER_ADDRESS": ("1.5", "a valid integer"),
    "TERTULIA_ALLOW_ANONYMOUS": ("perhaps", "a valid boolean"),
    "TERTULIA_ALLOWED_ORIGINS": ("chat.example.com", "write origins like https://chat.example.com"),
    "TERTULIA_ALLOWED_HOSTS": ("https://chat.example.com", "write names like chat.example.com"),
    "TERTULIA_TRUSTED_PROXIES": ("10.0.0.1/8", "networks like 10.0.0.0/24"),
    "TERTULIA_METRICS_TOKEN": ("s3cret", "should have at least 16"),
    "TERTULIA_CONTEXT_TOKENS": ("8", "greater than or equal to 256"),
    "TERTULIA_TEMPERATURE": ("3", "less than or equal to 2"),
    "TERTULIA_MAX_TOKENS": ("0", "greater than or equal to 1"),
    "TERTULIA_MAX_MESSAGE_CHARACTERS": ("1", "greater than or equal to 100"),
    "TERTULIA_MAX_BODY_BYTES": ("1", "greater than or equal to 1024"),
    "TERTULIA_MAX_HISTORY_BODY_BYTES": ("1", "greater than or equal to 1024"),
    "TERTULIA_CONNECT_TIMEOUT": ("0", "greater than 0"),
    "TERTULIA_READ_TIMEOUT": ("soon", "a valid number"),
    "TERTULIA_TOTAL_TIMEOUT": ("-1", "greater than 0"),
    "TERTULIA_MAX_RETRIES": ("11", "less than or equal to 10"),
    "TERTULIA_MAX_LIVE_REPLIES": ("0", "greater than or equal to 1"),
    "TERTULIA_SENDS_PER_MINUTE": ("-1", "greater than or equal to 0"),
    "TERTULIA_MAX_LIVE_REPLIES_PER_USER": ("many", "a valid integer"),
    "TERTULIA_TOKENS_PER_DAY": ("2000000001", "less than or equal to 2000000000"),
    "TERTULIA_TOKENS_PER_MONTH": ("-1", "greater than or equal to 0"),
    "TERTULIA_STREAM_RETENTION": ("1", "greater than or equal to 10"),
    "TERTULIA_EVENT_RETENTION": ("0", "greater than or equal to 1"),
    "TERTULIA_DELETED_RETENTION": ("-1", "greater than or equal to 0"),
    "TERTULIA_SHUTDOWN_GRACE": ("21", "less than or equal to 20"),
    "TERTULIA_LOG_FORMAT": ("xml", "'auto', 'json' or 'console'"),
    "TERTULIA_LOG_LEVEL": ("loud", "'debug', 'info', 'warning' or 'error'"),
    "TERTULIA_TOOLS": ("create_task, rm -rf", "holds 'rm -rf'"),
    "TERTULIA_PLUGINS": ("./tools.py", "write package.module or package.module:function"),
    "TERTULIA_APPROVAL_TIMEOUT": ("0", "greater than or equal to 1"),
    "TERTULIA_GRAPHIQL": ("2", "a valid boolean"),
}
ANY_TEXT = {
    "OPENAI_API_KEY",
    "TERTULIA_CONFIG",  # read later: see the tests of the file
    "TERTULIA_CACHE_FOLDER",
    "TERTULIA_SECRET_KEY",  # these five are read later: see test_safety.py
    "TERTULIA_JWT_ISSUER",
    "TERTULIA_JWT_AUDIENCE",
    "TERTULIA_JWT_JWKS_URL",
    "TERTULIA_JWT_PUBLIC_KEY",
    "TERTULIA_HOST",  # looked up when the server listens
    "TERTULIA_MODEL",  # compared with the models on offer
    "TERTULIA_SYSTEM_PROMPT",
}
PROVIDERS = """
[providers.mistral]
base_url = "https://models.example.com/v1"
api_key_env = "MISTRAL_KEY"
models = [{name = "large", title = "Large", context_tokens = 1000, capabilities = ["TOOLS"]}]

[providers.house]
base_url = "http://127.0.0.1:11434/v1"
continuation = "prefill"
models = [{name = "small"}, {name = "gpt-4o"}]
"""


def wrong(name: str) -> str:
    """The sentence about a wrong setting."""
    with pytest.raises(SettingsError) as caught:
        load_settings()
    sentence = str(caught.value)
    assert sentence.startswith(name)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_gives_one_sentence_with_the_variable_and_the_cure(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, cure = WRONG[name]
    monkeypatch.setenv(name, value)
    sentence = wrong(name)
    assert cure in sentence
    assert "s3cret" not in sentence


def test_every_setting_has_a_wrong_value_above_or_takes_any_text() -> None:
    assert WRONG.keys() | ANY_TEXT == {variable(name) for name in Settings.model_fields}


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:///:memory:"])
def test_a_database_url_without_a_database_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert "sqlite:///chat.db" in wrong("DATABASE_URL")


@pytest.mark.parametrize("name", ["TERTULIA_PORT", "DATABASE_URL"])
def test_every_command_ends_with_the_sentence_and_exit_code_1(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, WRONG[name][0])
    for command in (["serve"], ["migrate"], ["doctor"], ["config", "show"]):
        ended = CliRunner().invoke(app, command)
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert ended.stderr == f"tertulia: {wrong(name)}\n"


async def test_a_real_process_says_the_same_without_a_traceback() -> None:
    ended = await tertulia("serve", TERTULIA_PORT="eight")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("tertulia: TERTULIA_PORT is 'eight', but should be a valid integer")
    assert ended.err.count("\n") == 1


def test_the_plain_names_and_the_prefixed_ones_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://me@db/chat")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("TERTULIA_ALLOWED_ORIGINS", "https://a.example, https://b.example")
    settings = load_settings()
    assert settings.database_url == "postgres://me@db/chat"
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-1"
    assert settings.openai_base_url == "http://127.0.0.1:1/v1"
    assert settings.allowed_origins == ("https://a.example", "https://b.example")


def test_a_dot_env_file_is_read_and_the_environment_goes_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OPENAI_API_KEY=sk-file\nTERTULIA_PORT=9000\nTERTULIA_MODEL=\n# a comment\nOTHER=1\n")
    monkeypatch.setenv("TERTULIA_PORT", "9001")
    settings = load_settings()
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-file"
    assert (settings.port, settings.model) == (9001, None)


def test_a_dot_env_file_that_is_no_text_gives_a_sentence() -> None:
    Path(".env").write_bytes("TERTULIA_PORT=9000".encode("utf-16"))
    assert "UTF-8" in wrong("The file .env")


# ── secrets ──

SECRETS = {"OPENAI_API_KEY": "s3cret-1", "DATABASE_URL": "postgresql://me:s3cret-2@db/chat"}


def test_config_show_masks_secrets_and_shows_every_other_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | {"TERTULIA_PORT": "9000"}).items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(app, ["config", "show"]).stdout
    assert "s3cret" not in shown
    assert "OPENAI_API_KEY=**********" in shown
    assert "me:***@db/chat" in shown
    assert "TERTULIA_PORT=9000" in shown


def test_the_repr_of_settings_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert "s3cret" not in repr(load_settings())


def test_an_error_about_settings_holds_no_secret_in_its_whole_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", WRONG["DATABASE_URL"][0])
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


# ── who may reach the server ──


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    check_safety(load_settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "chat.example.com"])
def test_other_addresses_are_refused_unless_somebody_says_that_it_is_on_purpose(host: str) -> None:
    with pytest.raises(SettingsError, match=r"TERTULIA_HOST is .*TERTULIA_ALLOW_ANONYMOUS=true"):
        check_safety(load_settings(host=host))
    check_safety(load_settings(host=host, allow_anonymous=True))


async def test_a_real_process_does_not_listen_beyond_loopback_by_accident() -> None:
    ended = await tertulia("serve", "--host", "0.0.0.0", "--port", "0")
    assert ended.code == 1
    assert ended.err.startswith("tertulia: TERTULIA_HOST is '0.0.0.0', which others can reach")


# ── the configuration file ──


def in_file(text: str) -> Settings:
    Path("providers.toml").write_text(text)
    return load_settings(config=Path("providers.toml"))


def test_a_file_adds_providers_and_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_KEY", "k")
    mistral, house = configured_providers(in_file(PROVIDERS))
    assert (mistral.name, mistral.base_url, mistral.api_key) == ("mistral", "https://models.example.com/v1", "k")
    assert [(m.name, m.title, m.context_tokens) for m in mistral.models] == [("large", "Large", 1000)]
    assert (house.api_key, [(m.name, m.context_tokens) for m in house.models]) == (
        "",
        [("small", 32_768), ("gpt-4o", 128_000)],
    )


def test_the_example_file_of_the_repository_is_a_valid_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    providers = with_default(configured_providers(load_settings(config=ROOT / "tertulia.example.toml")), None)
    assert len(providers) >= 2
    assert sum(model.is_default for provider in providers for model in provider.models) == 1


def test_the_endpoint_of_the_environment_comes_first_and_gives_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    providers = with_default(configured_providers(in_file(PROVIDERS)), None)
    assert [p.name for p in providers] == ["openai", "mistral", "house"]
    assert [m.name for p in providers for m in p.models if m.is_default] == ["gpt-4o-mini"]


def test_models_call_tools_unless_their_entry_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    providers = configured_providers(in_file(PROVIDERS.replace('"small"', '"small", capabilities = []')))
    models = {model.name: model.calls_tools for provider in providers for model in provider.models}
    assert models == {"gpt-4o-mini": True, "large": True, "small": False, "gpt-4o": True}


def test_a_file_may_have_mcp_servers_and_no_providers() -> None:
    servers = in_file(
        "[mcp.time]\ncommand = ['mcp-server-time']\nenv = ['TZ']\nneeds_approval = ['convert']"
    ).config_file()
    assert servers.providers == {}
    assert (servers.mcp["time"].command, servers.mcp["time"].env) == (("mcp-server-time",), ("TZ",))
    assert servers.mcp["time"].needs_approval == ("convert",)


def test_each_provider_is_asked_to_go_on_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert ways_to_go_on() == {"openai": "instruct", "mistral": "instruct", "house": "prefill"}
    monkeypatch.setenv("TERTULIA_CONTINUATION", "prefill")
    assert ways_to_go_on() == {"openai": "prefill", "mistral": "instruct", "house": "prefill"}


def ways_to_go_on() -> dict[str, str]:
    return {provider.name: provider.continuation for provider in configured_providers(in_file(PROVIDERS))}


def test_a_key_may_stand_in_dot_env() -> None:
    Path(".env").write_text("MISTRAL_KEY=from-file\n")
    assert configured_providers(in_file(PROVIDERS))[0].api_key == "from-file"


def test_a_key_that_is_not_set_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^MISTRAL_KEY is not set, but the provider 'mistral'"):
        configured_providers(in_file(PROVIDERS))


def test_a_default_model_that_nobody_offers_is_refused_with_those_on_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_KEY", "k")
    providers = configured_providers(in_file(PROVIDERS))
    with pytest.raises(SettingsError, match=r"^TERTULIA_MODEL is 'huge', but the models on offer are large, small"):
        with_default(providers, "huge")


def test_a_model_that_two_providers_offer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_KEY", "k")
    providers = configured_providers(in_file(PROVIDERS.replace('"small"', '"large"')))
    with pytest.raises(SettingsError, match="the model 'large' twice"):
        with_default(providers, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[", "is not TOML"),
        ("[mcp.a]", "mcp.a must have either a command or a url"),
        ("[mcp.a]\ncommand = ['x']\nurl = 'http://x'", "mcp.a must have either a command or a url"),
        ("[mcp.a]\nurl = 'x.example'", "mcp.a.url must begin with http"),
        ("[mcp.a]\ncommand = []", "mcp.a.command should have at least 1 item"),
        ("[mcp.a]\ncommand = 'x'", "mcp.a.command should be a valid tuple"),
        ("[mcp.a]\nurl = 'http://x'\ntoken_env = 's3cret'", "mcp.a.token_env should be the name of a variable"),
        ("[mcp.a]\ncommand = ['x']\nenv = ['s3cret']", "mcp.a.env.0 should be the name of a variable"),
        ("[mcp.a]\ncommand = ['x']\ntoken_env = 'T'", "mcp.a has token_env, which is for a url"),
        ("[mcp.a]\nurl = 'http://x'\nenv = ['T']", "mcp.a has env, which is for a command"),
        ("[mcp.'a b']\nurl = 'http://x'", "mcp.a b.[key] should be at most 32 letters"),
        ("providers = 3", "providers should be a valid dictionary"),
        ("[providers.a]\nmodels = [{name = 'm'}]", "providers.a.base_url is missing"),
        ("[providers.a]\nbase_url = 'm.example'\nmodels = [{name = 'm'}]", "providers.a.base_url must begin with http"),
        ("[providers.a]\nbase_url = 'http://m'\nmodels = []", "providers.a.models should have at least 1 item"),
        ("[providers.a]\nbase_url = 'http://m'\napi_key = 's3cret'", "providers.a.models is missing"),
        (PROVIDERS.replace("api_key_env", "api_key"), "providers.mistral.api_key is no setting"),
        (PROVIDERS.replace("prefill", "guess"), "providers.house.continuation should be 'prefill' or 'instruct'"),
        (PROVIDERS.replace('"TOOLS"', '"FLIGHT"'), "providers.mistral.models.0.capabilities.0 should be"),
    ],
)
def test_a_wrong_file_gives_one_sentence_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        configured_providers(in_file(text))
    sentence = str(caught.value)
    assert sentence.startswith("TERTULIA_CONFIG names providers.toml, ")
    assert reason in sentence
    assert "\n" not in sentence
    assert "s3cret" not in sentence


def test_a_file_that_is_not_there_stops_the_start_with_a_sentence() -> None:
    ended = CliRunner().invoke(app, ["serve", "--port", "0"], env={"TERTULIA_CONFIG": "absent.toml"})
    assert ended.exit_code == 1
    assert ended.stderr == (
        "tertulia: TERTULIA_CONFIG names absent.toml, which cannot be read: No such file or directory.\n"
    )


def test_a_name_that_is_nearly_a_setting_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERTULIA_MODLE", "x")
    with pytest.raises(SettingsError, match="TERTULIA_MODLE is not a setting; did you mean TERTULIA_MODEL"):
        load_settings()


def test_what_config_show_prints_can_be_a_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["config", "show"]).stdout
    before = load_settings()
    (tmp_path / ".env").write_text(shown)
    assert load_settings() == before
