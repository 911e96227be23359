"""The TOML file that TERTULIA_CONFIG names: further providers, their models, and MCP servers.

`tertulia.example.toml` is one. Keys are never in it, only the names of the variables that hold them. Knows nothing of
the other settings.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from domain.models import ModelCapability
from providers.completions import Continuation
from tertulia.errors import SettingsError, first_mistake

STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value


def variable_name(value: str) -> str:
    """Whoever puts the key itself there must not find it in an error message."""
    if not re.fullmatch("[A-Z][A-Z0-9_]*", value):
        raise ValueError("should be the name of a variable, in capitals, never the key itself")
    return value


class ModelEntry(BaseModel):
    model_config = STRICT

    name: str
    title: str = ""
    context_tokens: int | None = Field(default=None, ge=256)
    max_output_tokens: int | None = Field(default=None, ge=1)
    capabilities: tuple[ModelCapability, ...] = (ModelCapability.TOOLS,)


class ProviderEntry(BaseModel):
    """A provider. `api_key_env` names the variable that holds its key, as it is or with _FILE behind it."""

    model_config = STRICT

    base_url: Annotated[str, AfterValidator(http_url)] = Field(repr=False)
    api_key_env: Annotated[str, AfterValidator(variable_name)] | None = None
    continuation: Continuation = Continuation.INSTRUCT
    models: tuple[ModelEntry, ...] = Field(min_length=1)


class McpEntry(BaseModel):
    """An MCP server: a program that is started, or an address. `env` and `token_env` are names of variables.

    `needs_approval` is for all of its tools or for those that it names; None leaves it to what they say of themselves.
    """

    model_config = STRICT

    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    env: tuple[Annotated[str, AfterValidator(variable_name)], ...] = ()
    url: Annotated[str, AfterValidator(http_url)] | None = Field(default=None, repr=False)
    token_env: Annotated[str, AfterValidator(variable_name)] | None = None
    tools: tuple[str, ...] | None = None
    needs_approval: bool | tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_transport(self) -> "McpEntry":
        if (self.command is None) == (self.url is None):
            raise ValueError("must have either a command or a url")
        if self.command is None and self.env:
            raise ValueError("has env, which is for a command")
        if self.url is None and self.token_env is not None:
            raise ValueError("has token_env, which is for a url")
        return self


def server_name(value: str) -> str:
    if not re.fullmatch("[a-zA-Z0-9_-]{1,32}", value):
        raise ValueError("should be at most 32 letters, digits, _ and -: the names of tools begin with it")
    return value


class ConfigFile(BaseModel):
    """The whole file: `[providers.NAME]`, `[[providers.NAME.models]]` and `[mcp.NAME]`."""

    model_config = STRICT

    providers: dict[str, ProviderEntry] = Field(default_factory=dict)
    mcp: dict[Annotated[str, AfterValidator(server_name)], McpEntry] = Field(default_factory=dict)


def read(file: Path) -> ConfigFile:
    """Raises SettingsError when the file is not readable."""
    try:
        return ConfigFile(**tomllib.loads(file.read_text("utf-8")))
    except OSError as error:
        raise SettingsError(f"TERTULIA_CONFIG names {file}, which cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        place, reason = first_mistake(error)
        raise SettingsError(f"TERTULIA_CONFIG names {file}, where {'.'.join(place) or 'the file'} {reason}.") from error
    except ValueError as error:
        raise SettingsError(f"TERTULIA_CONFIG names {file}, which is not TOML: {error}.") from error
