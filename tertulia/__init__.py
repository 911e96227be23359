"""Tertulia: a conversation server for language models. The public face: `from tertulia import create_app`."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tertulia")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"

from tertulia.main import create_app
from tertulia.settings import Settings, SettingsError, load_settings

__all__ = ["Settings", "SettingsError", "__version__", "create_app", "load_settings"]
