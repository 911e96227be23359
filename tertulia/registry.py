"""What plugins add to a server: tools, providers of models, embedding models. `plugins.py` finds the plugins.

Knows nothing of MCP servers, whose tools come and go while the server runs.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import isfunction, ismethod
from typing import Any, cast

from domain.ports import EmbeddingModel
from domain.tools import NAME, Tool, ToolSource
from providers.chat import Provider
from tertulia.errors import SettingsError
from tertulia.tool_functions import FunctionTool, tool

CALLER = "this program"


class Registry:
    """Filled by `setup(registry)` functions before the server starts; a name is taken once."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._providers: list[Provider] = []
        self._embedding_models: dict[str, EmbeddingModel] = {}
        self._origins: dict[tuple[str, str], str] = {}
        self._origin, self._source = CALLER, ToolSource.PLUGIN

    def add_tool(self, added: Tool | Callable[..., Any]) -> None:
        """Add what `@tool` made, a function as `@tool` would take it, or any object that is a `domain.tools.Tool`.

        Raises SettingsError when there is a tool of that name, TypeError when the function is not fit for a tool.
        """
        made = tool(added) if isfunction(added) or ismethod(added) else cast(Tool, added)
        if not callable(getattr(made, "run", None)):
            raise TypeError("what was added is no tool; decorate a function with @tool")
        if not re.fullmatch(NAME, made.name):
            raise TypeError(f"a tool cannot be called {made.name!r}; its name must match {NAME}")
        if isinstance(made, FunctionTool):
            made = replace(made, source=self._source)
        self._take("tool", made.name)
        self._tools[made.name] = made

    def add_provider(self, provider: Provider) -> None:
        """Add an endpoint and its models, after those of the settings. Raises SettingsError when its name is taken."""
        self._take("provider", provider.name)
        self._providers.append(provider)

    def add_embedding_model(self, name: str, model: EmbeddingModel) -> None:
        """Raises SettingsError when its name is taken."""
        self._take("embedding model", name)
        self._embedding_models[name] = model

    @property
    def tools(self) -> Mapping[str, Tool]:
        return self._tools

    @property
    def providers(self) -> tuple[Provider, ...]:
        return tuple(self._providers)

    @property
    def embedding_models(self) -> Mapping[str, EmbeddingModel]:
        return self._embedding_models

    @contextmanager
    def filled_by(self, origin: str, source: ToolSource) -> Iterator[None]:
        """What is added meanwhile comes from there; errors name it."""
        before = self._origin, self._source
        self._origin, self._source = origin, source
        try:
            yield
        finally:
            self._origin, self._source = before

    def _take(self, kind: str, name: str) -> None:
        if (first := self._origins.get((kind, name))) is not None:
            raise SettingsError(
                f"The {kind} {name!r} is added twice: by {first} and by {self._origin}; rename one of them."
            )
        self._origins[kind, name] = self._origin
