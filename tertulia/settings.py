"""Every setting of the server: where it comes from, what it may be, and one readable sentence when it is wrong.

Sources, the first wins: environment variables, `.env` in the working directory, the defaults below. Names start with
TERTULIA_, except DATABASE_URL, OPENAI_API_KEY and OPENAI_BASE_URL, which are what everybody calls them. NAME_FILE names
a file that holds the value of NAME (`secret_files.py`). Further providers, their models and MCP servers are in the TOML
file that TERTULIA_CONFIG names.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from strawberry.http.websocket_origin import normalize_origin

from domain.replies import Recovery
from domain.tools import MAX_TOOLS, NAME
from persistence.database import normalised
from providers.completions import Continuation
from tertulia import config_file
from tertulia.config_file import ConfigFile, http_url
from tertulia.errors import SettingsError as SettingsError  # noqa: PLC0414  who reads settings meets it here
from tertulia.errors import first_mistake
from tertulia.secret_files import SUFFIX, from_file

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant. Answer clearly and briefly."


def proxy_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Raises ValueError for what is no network, and for one of everything, in which clients could choose addresses."""
    network = ipaddress.ip_network(text)
    if network.prefixlen == 0:
        raise ValueError
    return network


class Settings(BaseSettings):
    """The settings of one server; frozen, secrets are never in its repr."""

    model_config = SettingsConfigDict(
        env_prefix="TERTULIA_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    database_url: str = Field(
        "sqlite:///.data/tertulia.db",
        repr=False,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="Where everything is kept: sqlite:///file.db or postgresql://user:password@host/name.",
    )
    database_pool_size: int = Field(
        10,
        ge=2,
        le=200,
        description="PostgreSQL connections for requests; six more per process keep replies going.",
    )
    database_pool_timeout: float = Field(
        10, gt=0, le=300, description="Seconds a request waits for a free connection before it is answered UNAVAILABLE."
    )
    database_statement_timeout: float = Field(30, gt=0, le=3600, description="Seconds a statement may take.")
    openai_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("OPENAI_API_KEY", "openai_api_key"),
        description="Key of the OpenAI-compatible endpoint.",
    )
    openai_base_url: str | None = Field(
        None,
        repr=False,
        validation_alias=AliasChoices("OPENAI_BASE_URL", "openai_base_url"),
        description="Address of the endpoint, e.g. http://127.0.0.1:11434/v1 for Ollama; OpenAI's if unset.",
    )
    continuation: Continuation = Field(
        Continuation.INSTRUCT,
        description="How the endpoint is asked to go on with a reply that broke off: prefill where it continues a last "
        "assistant message (llama.cpp, Ollama), instruct by a message that asks for it, which any endpoint takes.",
    )
    config: Path | None = Field(None, description="TOML file with further providers and their models, and MCP servers.")
    cache_folder: Path = Field(Path(".data/cache"), description="Folder for unpacked token ranks.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    auth: Literal["none", "password", "jwt"] = Field(
        "none",
        description="Who may use the API: none lets everybody be one local user, password keeps accounts here, jwt "
        "takes the access tokens of an identity provider. API keys go with the last two.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="What access tokens are signed with when auth is password, at least 32 random characters, the same "
        "for all servers; with SQLite on loopback one is made and kept beside the database if unset.",
    )
    registration: Literal["open", "closed"] = Field(
        "closed", description="Whether strangers may make accounts; `tertulia user create` makes them always."
    )
    refresh_cookie: bool = Field(
        False, description="Keep the refresh token in a cookie that scripts cannot read, instead of in answers."
    )
    jwt_issuer: str | None = Field(None, max_length=255, description="The `iss` of the identity provider's tokens.")
    jwt_audience: str | None = Field(None, description="The `aud` of tokens that are meant for this server.")
    jwt_jwks_url: str | None = Field(None, description="Where the identity provider publishes its keys (https).")
    jwt_public_key: str | None = Field(None, description="The identity provider's public key (PEM), instead of a URL.")
    logins_per_address: int = Field(
        100, ge=0, description="Failed sign-ins of one client address in 15 minutes; 0 for no limit."
    )
    registrations_per_address: int = Field(
        10, ge=0, description="Registrations of one client address in an hour; 0 for no limit."
    )
    anonymous_operations_per_address: int = Field(
        600,
        ge=0,
        description="Operations a minute of one client address that nobody has signed in for, where others than this "
        "machine can reach the server or there are accounts; 0 for no limit.",
    )
    allow_anonymous: bool = Field(
        False, description="Listen beyond this machine although there are no accounts: everybody shares one user."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web origins that may call the API, by HTTP and by socket, separated by commas; * for all."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names this server is called by, separated by commas, e.g. behind a proxy; * for all; IP addresses "
        "are always. If unset: localhost alone when it listens on loopback or has no accounts (so that no web page can "
        "reach it by a name of its own), else all.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of the proxies before this server, separated by commas: only what they say "
        "in X-Forwarded-For and X-Forwarded-Proto is believed.",
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Bearer token for /metrics; without it they are only served while this server listens on loopback.",
    )
    model: str | None = Field(None, description="Default model; gpt-4o-mini with a key, the demo model without.")
    context_tokens: int | None = Field(
        None, ge=256, description="Context window of TERTULIA_MODEL in tokens, where it is not a well-known model."
    )
    system_prompt: str = Field(DEFAULT_SYSTEM_PROMPT, description="Default system prompt.")
    temperature: float | None = Field(None, ge=0, le=2, description="Default temperature; the endpoint's own if unset.")
    max_tokens: int = Field(
        2048, ge=1, le=1_000_000, description="Most tokens of one reply, where a message asks for no other."
    )
    max_message_characters: int = Field(100_000, ge=100, le=5_000_000, description="Longest message in characters.")
    max_body_bytes: int = Field(262_144, ge=1_024, description="Largest HTTP body in bytes.")
    max_history_body_bytes: int = Field(
        4_194_304, ge=1_024, description="Largest HTTP body in bytes of an operation with history."
    )
    connect_timeout: float = Field(10, gt=0, description="Seconds to connect to a provider.")
    read_timeout: float = Field(60, gt=0, description="Seconds a provider may be silent.")
    total_timeout: float = Field(600, gt=0, description="Seconds a reply may take.")
    max_retries: int = Field(2, ge=0, le=10, description="Times a failed request is repeated before anything arrived.")
    tools: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Tools that models are offered where neither conversation nor message says which, separated by "
        "commas; `tertulia tools` lists all.",
    )
    plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Python modules whose `setup(registry)` adds tools, providers or embedding models, separated by "
        "commas; module:function for another function.",
    )
    approval_timeout: int = Field(
        86_400, ge=1, le=31_536_000, description="Seconds a tool call waits for the user's consent."
    )
    worker: bool = Field(True, description="Make replies in this process; false leaves them to others (`worker`).")
    recovery: Recovery = Field(
        Recovery.CONTINUE,
        description="What becomes of a reply that broke off after it had shown text: `continue` asks the model to go "
        "on from there, `keep` lets it fail with its text.",
    )
    max_live_replies: int = Field(1_000, ge=1, description="Replies made at once by this process.")
    sends_per_minute: int = Field(
        30, ge=0, le=1_000, description="Messages that each user with an account may send in a minute; 0 for no limit."
    )
    max_live_replies_per_user: int = Field(
        3, ge=0, le=1_000, description="Replies of each user with an account made at once; 0 for no limit."
    )
    tokens_per_day: int = Field(
        2_000_000,
        ge=0,
        le=2_000_000_000,
        description="Tokens that each user with an account may use in a day of UTC, input and output; 0 for no limit.",
    )
    tokens_per_month: int = Field(
        20_000_000,
        ge=0,
        le=2_000_000_000,
        description="Tokens that each user with an account may use in a month of UTC; 0 for no limit.",
    )
    stream_retention: int = Field(600, ge=10, description="Seconds a reply's log is kept after its end.")
    event_retention: int = Field(
        24, ge=1, description="Hours a client may be away and still learn from conversationEvents all that happened."
    )
    deleted_retention: int = Field(30, ge=0, description="Days a deleted conversation is kept before it is removed.")
    shutdown_grace: float = Field(
        20, ge=0, le=20, description="Seconds live replies may go on after SIGTERM; then others go on with them."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Form of log lines; auto is console in a terminal and json elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    graphiql: bool = Field(True, description="Serve GraphiQL at /graphiql.")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        normalised(value)
        return value

    @field_validator("openai_base_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return value if value is None else http_url(value)

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/@?#]+", origin):
                raise ValueError(f"holds {origin!r}; write origins like https://chat.example.com, without a path")
        return tuple(normalize_origin(origin) or origin for origin in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                proxy_network(proxy)
            except ValueError:
                raise ValueError(
                    f"holds {proxy!r}; write addresses like 10.0.0.5 or networks like 10.0.0.0/24"
                ) from None
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+|\[[0-9a-fA-F:]+\]", name):
                raise ValueError(f"holds {name!r}; write names like chat.example.com or *.example.com, without a port")
        return value

    @field_validator("tools")
    @classmethod
    def _tool_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"holds {name!r}; `tertulia tools` lists the names of tools")
        if len(value) > MAX_TOOLS:
            raise ValueError(f"holds {len(value)} names; models take at most {MAX_TOOLS} tools")
        return tuple(dict.fromkeys(value))

    @field_validator("plugins")
    @classmethod
    def _plugin_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?", path):
                raise ValueError(f"holds {path!r}; write package.module or package.module:function")
        return tuple(dict.fromkeys(value))

    @field_validator("allowed_origins", "allowed_hosts", "trusted_proxies", "tools", "plugins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:  # noqa: ANN401  whatever the environment holds
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, SecretFiles(settings_cls)

    @property
    def loopback_only(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """The values of a Host header that are served."""
        open_to_names = self.auth != "none" and not self.loopback_only
        return self.allowed_hosts or (("*",) if open_to_names else LOOPBACK_NAMES)

    @property
    def proxy_networks(self) -> list[str]:
        """The trusted proxies, those of IPv4 also as a listener of both kinds sees them: ::ffff:10.0.0.5."""
        networks = [proxy_network(proxy) for proxy in self.trusted_proxies]
        mapped = [f"::ffff:{net.network_address}/{96 + net.prefixlen}" for net in networks if net.version == 4]
        return [*map(str, networks), *mapped]

    def config_file(self) -> ConfigFile:
        """What the configuration file says, nothing without one. Raises SettingsError when it is not readable."""
        return ConfigFile() if self.config is None else config_file.read(self.config)


class SecretFiles(PydanticBaseSettingsSource):
    """The settings whose values are in files. Raises SettingsError."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        return from_file(variable(field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(fields[name], name)[0] for name in fields if not is_path(fields[name])}
        return {name: value for name, value in found.items() if value is not None}


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401  any setting by its field name
    """The settings, or SettingsError with one sentence for the first that is wrong."""
    try:
        _check_names({**dotenv_values(".env"), **os.environ})
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error
    except UnicodeDecodeError as error:
        raise SettingsError("The file .env is not UTF-8 text; save it as such.") from error


def _sentence(error: ValidationError) -> str:
    """What was given is part of it, unless it is a secret or comes from a file."""
    place, reason = first_mistake(error)
    field, given = place[0].lower(), error.errors()[0].get("input")
    name, known = variable(field), Settings.model_fields.get(field)
    if from_file(name) is not None:
        name, given = name + SUFFIX, None
    told = isinstance(given, str | int) and known is not None and not is_secret(known)
    shown = f" is {given!r}, but" if told else ""
    meaning = f" ({known.description.rstrip('.')})" if known is not None and known.description else ""
    return f"{name}{shown} {reason}{meaning}."


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting may hold a secret: a key, or an address with a password in it."""
    return not field.repr or SecretStr in (field.annotation, *get_args(field.annotation))


def is_path(field: FieldInfo) -> bool:
    """Such a setting names a file already, so that TERTULIA_CONFIG_FILE would be a mistake."""
    return Path in (field.annotation, *get_args(field.annotation))


def _check_names(given: Mapping[str, str | None]) -> None:
    """A name that is nearly right would otherwise be passed over in silence."""
    files = [variable(name) + SUFFIX for name, field in Settings.model_fields.items() if not is_path(field)]
    known = [*map(variable, Settings.model_fields), *files]
    for name in sorted(name.upper() for name in given if name.upper().startswith("TERTULIA_")):
        if name in known or name.startswith("TERTULIA_TEST_"):
            continue
        near = get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise SettingsError(f"{name} is not a setting{meant} `tertulia config show` lists them all.")


def variable(field: str) -> str:
    """The environment variable of a setting."""
    plain = {"database_url", "openai_api_key", "openai_base_url"}
    return field.upper() if field.lower() in plain else f"TERTULIA_{field.upper()}"
