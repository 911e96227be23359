"""Plugins: `setup(registry)` functions that are built in, installed as entry points, or named by TERTULIA_PLUGINS.

They only add, and may be called more than once in a process. Knows nothing of what they add.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from domain.tools import ToolSource
from tertulia import task_tools
from tertulia.errors import SettingsError
from tertulia.registry import Registry
from tertulia.settings import Settings

GROUP = "tertulia.plugins"
WRITE = "write `def setup(registry): registry.add_tool(...)` there, or name another function as module:function"


def load_registry(settings: Settings) -> Registry:
    """The built-in tools and everything that plugins add. Raises SettingsError with the cause of the first failure."""
    registry = Registry()
    _fill(registry, task_tools.setup, "Tertulia itself", ToolSource.BUILT_IN)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        origin = f"the entry point {point.name!r} of the package {_package(point)}"
        _fill(registry, _loaded(point, origin), origin, ToolSource.PLUGIN)
    if settings.plugins and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a console script does not look for modules where it is started
    for path in settings.plugins:
        origin = f"the plugin {path!r} of TERTULIA_PLUGINS"
        _fill(registry, _named(path, origin), origin, ToolSource.PLUGIN)
    return registry


def _fill(registry: Registry, setup: Callable[[Registry], Any], origin: str, source: ToolSource) -> None:
    try:
        with registry.filled_by(origin, source):
            setup(registry)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(f"Setting up {origin} failed: {_cause(error)}.") from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"


def _loaded(point: EntryPoint, origin: str) -> Callable[[Registry], Any]:
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise SettingsError(f"Importing {origin} failed: {_cause(error)}.") from error
    return _setup(getattr(found, "setup", None) if not callable(found) else found, origin)


def _named(path: str, origin: str) -> Callable[[Registry], Any]:
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise SettingsError(f"Importing {origin} failed: {_cause(error)}.") from error
    return _setup(getattr(module, name or "setup", None), origin, name or "setup")


def _setup(found: object, origin: str, name: str = "setup") -> Callable[[Registry], Any]:
    if found is None:
        raise SettingsError(f"There is no function {name} in {origin}; {WRITE}.")
    if not callable(found):
        raise SettingsError(f"What {origin} names is no function; {WRITE}.")
    return found


def _cause(error: BaseException) -> str:
    """One line, with the type of the error where its message alone would not say much."""
    line = next(iter(str(error).splitlines()), "").rstrip(".")
    named = isinstance(error, ImportError | TypeError) and line
    return line if named else f"{type(error).__name__}: {line}".rstrip(": ")
