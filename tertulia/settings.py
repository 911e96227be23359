"""Every setting of the server: where it comes from, what it may be, and one readable sentence when it is wrong.

Sources, the first wins: environment variables, `.env` in the working directory, the defaults below. Names start with
TERTULIA_, except DATABASE_URL, OPENAI_API_KEY and OPENAI_BASE_URL, which are what everybody calls them. Further
providers and their models are in the TOML file that TERTULIA_CONFIG names.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain.models import ModelCapability
from domain.replies import Recovery
from persistence.database import normalised
from providers.completions import Continuation

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant. Answer clearly and briefly."


class SettingsError(Exception):
    """A wrong setting; the message is one sentence that names the variable and the cure."""


def http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value


class ModelEntry(BaseModel):
    """A model in the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str = ""
    context_tokens: int | None = Field(default=None, ge=256)
    max_output_tokens: int | None = Field(default=None, ge=1)
    capabilities: tuple[ModelCapability, ...] = ()


class ProviderEntry(BaseModel):
    """A provider in the configuration file. `api_key_env` names the variable that holds its key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: Annotated[str, AfterValidator(http_url)]
    api_key_env: str | None = None
    continuation: Continuation = Continuation.INSTRUCT
    models: tuple[ModelEntry, ...] = Field(min_length=1)


class ConfigFile(BaseModel):
    """The whole file: `[providers.NAME]` and `[[providers.NAME.models]]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    providers: dict[str, ProviderEntry] = Field(min_length=1)


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
    config: Path | None = Field(None, description="TOML file with further providers and their models.")
    cache_folder: Path = Field(Path(".data/cache"), description="Folder for unpacked token ranks.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    allow_anonymous: bool = Field(
        False, description="Listen beyond this machine although there are no accounts: everybody shares one user."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web origins that may call the API, by HTTP and by socket, separated by commas; * for all."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names this server is called by, separated by commas, e.g. behind a proxy; * for all. If unset: "
        "this machine's own names when it listens on loopback (so that no web page can reach it by DNS), else all.",
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
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/]+", origin):
                raise ValueError(f"holds {origin!r}; write origins like https://chat.example.com, without a path")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+|\[[0-9a-fA-F:]+\]", name):
                raise ValueError(f"holds {name!r}; write names like chat.example.com or *.example.com, without a port")
        return value

    @field_validator("allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:  # noqa: ANN401  whatever the environment holds
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

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
        return self.allowed_hosts or (LOOPBACK_NAMES if self.loopback_only else ("*",))

    def providers_file(self) -> dict[str, ProviderEntry]:
        """The providers of the configuration file, by name. Raises SettingsError when it is not readable."""
        if self.config is None:
            return {}
        try:
            return dict(ConfigFile(**tomllib.loads(self.config.read_text("utf-8"))).providers)
        except OSError as error:
            raise SettingsError(
                f"TERTULIA_CONFIG names {self.config}, which cannot be read: {error.strerror}."
            ) from error
        except ValidationError as error:
            place, reason = _first(error)
            raise SettingsError(
                f"TERTULIA_CONFIG names {self.config}, where {'.'.join(place) or 'the file'} {reason}."
            ) from error
        except ValueError as error:
            raise SettingsError(f"TERTULIA_CONFIG names {self.config}, which is not TOML: {error}.") from error


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401  any setting by its field name
    """The settings, or SettingsError with one sentence for the first that is wrong."""
    try:
        _check_names({**dotenv_values(".env"), **os.environ})
        return Settings(**overrides)
    except ValidationError as error:
        place, reason = _first(error)
        field, given = place[0].lower(), error.errors()[0].get("input")
        name = variable(field)
        shown = "" if "KEY" in name or "URL" in name or not isinstance(given, str | int) else f" is {given!r}, but"
        known = Settings.model_fields.get(field)
        meaning = f" ({known.description.rstrip('.')})" if known is not None and known.description else ""
        raise SettingsError(f"{name}{shown} {reason}{meaning}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError("The file .env is not UTF-8 text; save it as such.") from error


def _check_names(given: Mapping[str, str | None]) -> None:
    """A name that is nearly right would otherwise be passed over in silence."""
    known = [variable(field) for field in Settings.model_fields]
    for name in sorted(name.upper() for name in given if name.upper().startswith("TERTULIA_")):
        if name in known or name.startswith("TERTULIA_TEST_"):
            continue
        near = get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise SettingsError(f"{name} is not a setting{meant} `tertulia config show` lists them all.")


def _first(error: ValidationError) -> tuple[list[str], str]:
    """Where the first mistake is, and what is wrong there, without what was given: that may be a secret."""
    first = error.errors()[0]
    reason = {"missing": "is missing", "extra_forbidden": "is no setting"}.get(first["type"], first["msg"])
    reason = re.sub(r"^(Input|Tuple|Dictionary) should", "should", reason.removeprefix("Value error, "))
    return [str(step) for step in first["loc"]], reason.rstrip(".")


def variable(field: str) -> str:
    """The environment variable of a setting."""
    plain = {"database_url", "openai_api_key", "openai_base_url"}
    return field.upper() if field.lower() in plain else f"TERTULIA_{field.upper()}"


def check_exposure(settings: Settings) -> None:
    """Raises SettingsError when the server would be open to others without accounts and nobody said so."""
    if not settings.loopback_only and not settings.allow_anonymous:
        raise SettingsError(
            f"TERTULIA_HOST is {settings.host!r}, which others can reach, but there are no accounts: everybody would "
            "share one user. Listen on 127.0.0.1, or set TERTULIA_ALLOW_ANONYMOUS=true to do it on purpose."
        )
