"""All tools of a server: those of its registry, and those of the MCP servers that the configuration file names.

Knows nothing of who is offered which.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from domain.tools import Tool
from tertulia.config_file import McpEntry
from tertulia.registry import Registry
from tertulia.secret_files import value_of
from tertulia.settings import Settings, SettingsError

if TYPE_CHECKING:
    from providers.mcp import McpServers
    from providers.mcp_connection import McpServer


class ServerToolbox:
    """The `domain.tools.Toolbox` of a server. Of two tools with one name the registry's counts, then the first."""

    def __init__(self, own: Mapping[str, Tool], servers: "McpServers | None") -> None:
        self._own = own
        self._servers = servers

    def tools(self) -> list[Tool]:
        return [tool for _, tool in sorted(self._all().items())]

    def get(self, name: str) -> Tool | None:
        return self._own.get(name) or self._all().get(name)

    def away(self) -> list[str]:
        """MCP servers that cannot be reached just now."""
        return [] if self._servers is None else self._servers.away()

    def _all(self) -> dict[str, Tool]:
        remote = {} if self._servers is None else {tool.name: tool for tool in reversed(self._servers.tools())}
        return {**remote, **self._own}


async def open_toolbox(settings: Settings, registry: Registry, stack: AsyncExitStack) -> ServerToolbox:
    """`connected_toolbox`; raises SettingsError too when TERTULIA_TOOLS names a tool that is not there."""
    toolbox = await connected_toolbox(settings, registry, stack)
    if (missing := missing_tool(settings, toolbox)) is not None:
        raise SettingsError(f"TERTULIA_TOOLS holds {missing!r}, but there is no such tool; see `tertulia tools`.")
    return toolbox


def missing_tool(settings: Settings, toolbox: ServerToolbox) -> str | None:
    """The first name in TERTULIA_TOOLS of a tool that neither is there nor may come with an MCP server."""
    prefixes = tuple(f"{server}_" for server in settings.config_file().mcp)
    unknown = (name for name in settings.tools if toolbox.get(name) is None and not name.startswith(prefixes))
    return next(unknown, None)


async def connected_toolbox(settings: Settings, registry: Registry, stack: AsyncExitStack) -> ServerToolbox:
    """All tools, with connections to the MCP servers until the stack is closed; one may be away and come later.

    Raises SettingsError when a variable that a server is given is not set.
    """
    configured = settings.config_file().mcp
    if not configured:
        return ServerToolbox(registry.tools, None)
    from providers.mcp import open_mcp_servers  # half a second, and 30 MB

    servers = [_server(name, entry) for name, entry in configured.items()]
    return ServerToolbox(registry.tools, await stack.enter_async_context(open_mcp_servers(servers)))


def _server(name: str, entry: McpEntry) -> "McpServer":
    from providers.mcp_connection import McpServer

    return McpServer(
        name=name,
        command=entry.command or (),
        env={variable: _value(name, variable) for variable in entry.env},
        url=entry.url or "",
        token=None if entry.token_env is None else _value(name, entry.token_env),
        tools=entry.tools,
        needs_approval=entry.needs_approval,
    )


def _value(server: str, name: str) -> str:
    if (value := value_of(name)) is None:
        raise SettingsError(
            f"{name} is not set, but the MCP server {server!r} in the file that TERTULIA_CONFIG names is given it."
        )
    return value
