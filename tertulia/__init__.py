"""Tertulia: a conversation server for language models.

The public face: `from tertulia import create_app` to serve, and to write tools and plugins
`from tertulia import Registry, ToolContext, ToolError, tool`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tertulia")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"

from domain.tools import ToolContext, ToolError
from tertulia.main import create_app
from tertulia.registry import Registry
from tertulia.settings import Settings, SettingsError, load_settings
from tertulia.tool_functions import tool

__all__ = [
    "Registry",
    "Settings",
    "SettingsError",
    "ToolContext",
    "ToolError",
    "__version__",
    "create_app",
    "load_settings",
    "tool",
]
