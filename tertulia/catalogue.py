"""Which providers and models this server offers, from its settings.

Context windows of well-known models are from OpenAI's public model pages; for others the operator says them.
"""

from collections.abc import Sequence
from dataclasses import replace

from domain.models import Model, ModelCapability
from providers.chat import Provider
from tertulia.config_file import ProviderEntry
from tertulia.secret_files import value_of
from tertulia.settings import Settings, SettingsError

DEFAULT_MODEL = "gpt-4o-mini"
OPENAI_URL = "https://api.openai.com/v1"
UNKNOWN_CONTEXT = 32_768
CONTEXT_TOKENS = {
    "gpt-4o-mini": 128_000,
    "gpt-4o": 128_000,
    "gpt-4.1": 1_047_576,
    "gpt-4.1-mini": 1_047_576,
    "gpt-4.1-nano": 1_047_576,
    "o3": 200_000,
    "o4-mini": 200_000,
    "gpt-5": 400_000,
    "gpt-5-mini": 400_000,
    "gpt-5-nano": 400_000,
    "gpt-3.5-turbo": 16_385,
}


def configured_providers(settings: Settings, added: Sequence[Provider] = ()) -> list[Provider]:
    """The providers that the settings name, and those that plugins added; empty when the demo model shall serve."""
    providers = [*(_from_entry(name, entry) for name, entry in settings.config_file().providers.items()), *added]
    if settings.openai_api_key is not None or settings.openai_base_url is not None:
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else ""
        name = settings.model or DEFAULT_MODEL
        offered = {model.name for provider in providers for model in provider.models}
        if name not in offered:
            url, models = settings.openai_base_url or OPENAI_URL, (_model(name, settings),)
            providers.insert(0, Provider("openai", url, key, models, settings.continuation))
    return providers


def with_default(providers: Sequence[Provider], wanted: str | None) -> list[Provider]:
    """The same providers with exactly one default model. Raises SettingsError when TERTULIA_MODEL is not offered."""
    names = [model.name for provider in providers for model in provider.models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(
            f"The file that TERTULIA_CONFIG names and the plugins have the model {twice!r} twice; take one of them out."
        )
    if wanted is not None and wanted not in names:
        raise SettingsError(
            f"TERTULIA_MODEL is {wanted!r}, but the models on offer are {', '.join(names)}; set OPENAI_API_KEY or "
            "OPENAI_BASE_URL for the endpoint that has it, or add it to the file that TERTULIA_CONFIG names."
        )
    default = wanted or names[0]
    return [
        replace(provider, models=tuple(replace(m, is_default=m.name == default) for m in provider.models))
        for provider in providers
    ]


def _model(name: str, settings: Settings) -> Model:
    context = settings.context_tokens or CONTEXT_TOKENS.get(name, UNKNOWN_CONTEXT)
    return Model(name=name, provider="openai", context_tokens=context, capabilities=(ModelCapability.TOOLS,))


def _from_entry(name: str, entry: ProviderEntry) -> Provider:
    key = "" if entry.api_key_env is None else _key(name, entry.api_key_env)
    models = tuple(
        Model(
            name=m.name,
            provider=name,
            title=m.title,
            context_tokens=m.context_tokens or CONTEXT_TOKENS.get(m.name, UNKNOWN_CONTEXT),
            max_output_tokens=m.max_output_tokens,
            capabilities=m.capabilities,
        )
        for m in entry.models
    )
    return Provider(name, entry.base_url, key, models, entry.continuation)


def _key(provider: str, name: str) -> str:
    key = value_of(name)
    if key is None:
        raise SettingsError(
            f"{name} is not set, but the provider {provider!r} in the file that TERTULIA_CONFIG names takes its key "
            "from it."
        )
    return key
