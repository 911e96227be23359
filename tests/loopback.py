"""No test listens on or talks to anything but this machine: sockets that try raise BeyondLoopback."""

import os
import socket
from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address
from typing import Any

import pytest
from sqlalchemy.engine import make_url

REAL_API = "TERTULIA_TEST_OPENAI_API_KEY"
"""Where this is set, somebody wants the tests that ask the real API."""


class BeyondLoopback(AssertionError):
    """A test wanted to leave this machine."""


def keep_to_loopback(patch: pytest.MonkeyPatch) -> None:
    """From now on; but the database that TEST_DATABASE_URL names may be anywhere."""
    if REAL_API in os.environ:
        return
    exceptions = _database_hosts()
    for name in ("connect", "connect_ex", "bind", "sendto"):
        patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name), exceptions))
    patch.setattr(socket, "getaddrinfo", _guarded_lookup(socket.getaddrinfo, exceptions))


def _guarded(method: Callable[..., Any], exceptions: set[str]) -> Callable[..., Any]:
    @wraps(method)
    def guarded(self: socket.socket, *arguments: Any) -> Any:
        address = arguments[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _near(address[0], exceptions):
            raise BeyondLoopback(f"{method.__name__} {address}")
        return method(self, *arguments)

    return guarded


def _guarded_lookup(lookup: Callable[..., Any], exceptions: set[str]) -> Callable[..., Any]:
    @wraps(lookup)
    def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
        if host is not None and str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # as everywhere, without asking
        if host is not None and not _is_address(host) and not _near(host, exceptions):
            raise BeyondLoopback(f"look up {host}")
        return lookup(host, *arguments, **options)

    return guarded


def _near(host: str, exceptions: set[str]) -> bool:
    return host == "localhost" or host in exceptions or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _database_hosts() -> set[str]:
    host = make_url(url).host if (url := os.environ.get("TEST_DATABASE_URL")) else None
    if not host:
        return set()
    return {host, *(str(found[4][0]) for found in socket.getaddrinfo(host, None))}
