"""A look at everything a server needs: what is well, and what is not, with its cure."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from persistence import schema as migrations
from persistence.database import Database
from providers.chat import Provider
from providers.local import LOCAL_MODEL, find_local_model
from tertulia import catalogue
from tertulia.databases import usable_database
from tertulia.http import GRAPHIQL
from tertulia.plugins import load_registry
from tertulia.safety import check_safety
from tertulia.settings import Settings, SettingsError

PATIENCE_SECONDS = 5.0
Finding = tuple[bool, str]
"""Whether it is well, and a sentence."""


async def examine(settings: Settings) -> list[Finding]:
    return [_exposure(settings), await _database(settings), *await _models(settings), _graphiql()]


def _exposure(settings: Settings) -> Finding:
    try:
        check_safety(settings)
    except SettingsError as error:
        return False, str(error)
    return True, f"listens on {settings.host} port {settings.port}"


async def _database(settings: Settings) -> Finding:
    database = Database(settings.database_url)
    try:
        with usable_database():
            if database.file is not None and not database.file.exists():
                return _makeable(database.file)
            revision = await migrations.current_revision(database)
        if revision != migrations.newest_revision():
            return False, f"the database is at revision {revision or 'none'}; run `tertulia migrate`"
        return True, f"the database is at revision {revision}"
    except SettingsError as error:
        return False, str(error)
    finally:
        await database.close()


def _makeable(file: Path) -> Finding:
    folder = next(folder for folder in file.absolute().parents if folder.exists())
    if folder.is_dir() and os.access(folder, os.W_OK):
        return True, f"{file} does not exist yet; the first start makes it"
    return False, f"{file} cannot be made, as nothing can be written in {folder}; name another file in DATABASE_URL"


async def _models(settings: Settings) -> list[Finding]:
    try:
        if providers := catalogue.configured_providers(settings, load_registry(settings).providers):
            named = catalogue.with_default(providers, settings.model)
            return [await _endpoint(provider) for provider in named]
    except SettingsError as error:
        return [(False, str(error))]
    return [_demo(settings)]


async def _endpoint(provider: Provider) -> Finding:
    """Ask for the list of models, which costs nothing; not every endpoint has one."""
    names = ", ".join(model.name for model in provider.models)
    headers = {"authorization": f"Bearer {provider.api_key}"} if provider.api_key else {}
    address, shown = provider.base_url.rstrip("/") + "/models", without_password(provider.base_url)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS), headers=headers) as http,
            http.get(address, allow_redirects=False) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, OSError, ValueError):
        return False, f"the endpoint {provider.name} ({shown}) cannot be reached; it should offer {names}"
    if status in (401, 403):
        return False, f"the endpoint {provider.name} refuses the key (HTTP {status}); it should offer {names}"
    return True, f"the endpoint {provider.name} answers; models on offer: {names}"


def without_password(url: str) -> str:
    """As it may be shown: without the user and the password, and without the parameters, which may be keys."""
    parts = urlsplit(url)
    hidden = "***@" if "@" in parts.netloc else ""
    return parts._replace(netloc=hidden + parts.netloc.rpartition("@")[2], query="***" if parts.query else "").geturl()


def _demo(settings: Settings) -> Finding:
    if settings.model not in (None, LOCAL_MODEL.name):
        return False, f"TERTULIA_MODEL is {settings.model!r}, but neither OPENAI_API_KEY nor OPENAI_BASE_URL is set"
    if find_local_model() is None:
        return False, "no model: set OPENAI_API_KEY or OPENAI_BASE_URL, or `make run` installs a demo model"
    return True, "the demo model answers (set OPENAI_API_KEY or OPENAI_BASE_URL for a better one)"


def _graphiql() -> Finding:
    built = (GRAPHIQL / "index.html").exists()
    return built, "GraphiQL is built" if built else "GraphiQL is not built; `make graphiql` builds it"
