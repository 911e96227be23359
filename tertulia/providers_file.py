"""The TOML file that TERTULIA_CONFIG names: further providers and their models, `tertulia.example.toml` is one.

Keys are never in it, only the names of the variables that hold them. Knows nothing of the other settings.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

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


class ConfigFile(BaseModel):
    """The whole file: `[providers.NAME]` and `[[providers.NAME.models]]`."""

    model_config = STRICT

    providers: dict[str, ProviderEntry] = Field(min_length=1)


def read(file: Path) -> dict[str, ProviderEntry]:
    """The providers by name. Raises SettingsError when the file is not readable."""
    try:
        return dict(ConfigFile(**tomllib.loads(file.read_text("utf-8"))).providers)
    except OSError as error:
        raise SettingsError(f"TERTULIA_CONFIG names {file}, which cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        place, reason = first_mistake(error)
        raise SettingsError(f"TERTULIA_CONFIG names {file}, where {'.'.join(place) or 'the file'} {reason}.") from error
    except ValueError as error:
        raise SettingsError(f"TERTULIA_CONFIG names {file}, which is not TOML: {error}.") from error
