"""Whose word is taken for where a client comes from: that of named proxies, and nobody else's."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from graph.addresses import UNKNOWN, client_key
from tertulia.main import create_app
from tertulia.settings import SettingsError, load_settings
from tests.serving import listening, settings_for

FORGED = "203.0.113.66"
OUTER = "198.51.100.7"
"""The proxy that clients talk to, where there are two: it talks to the one on 127.0.0.1."""


class Asking:
    """A server that says from where it is asked."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def by_http(self, **headers: str) -> list[str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.get(f"{self._url}/whence", headers=named) as response:
            told: list[str] = await response.json()
            return told

    async def by_socket(self, **headers: str) -> list[str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        address = self._url.replace("http", "ws") + "/whence"
        async with connect(address, additional_headers=named, proxy=None) as socket:
            told: list[str] = json.loads(await socket.recv())
            return told


def whence(connection: HTTPConnection) -> list[str]:
    return [client_key(connection), connection.url.scheme]


@asynccontextmanager
async def asking(folder: Path, *trusted: str) -> AsyncIterator[Asking]:
    app = create_app(settings_for(folder, trusted_proxies=trusted))

    @app.get("/whence")
    async def by_http(request: Request) -> list[str]:
        return whence(request)

    @app.websocket("/whence")
    async def by_socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(whence(websocket))
        await websocket.close()

    async with listening(app) as url, aiohttp.ClientSession() as http:
        yield Asking(url, http)


async def test_without_trusted_proxies_nobody_can_say_where_they_come_from(tmp_path: Path) -> None:
    async with asking(tmp_path) as server:
        forged = {"x_forwarded_for": FORGED, "x_forwarded_proto": "https", "forwarded": f"for={FORGED};proto=https"}
        assert await server.by_http(**forged) == ["127.0.0.1", "http"]
        assert await server.by_socket(**forged) == ["127.0.0.1", "ws"]


async def test_what_another_than_the_trusted_proxy_says_is_not_believed(tmp_path: Path) -> None:
    async with asking(tmp_path, "127.0.0.2", "10.0.0.0/8") as server:
        assert await server.by_http(x_forwarded_for=FORGED, x_forwarded_proto="https") == ["127.0.0.1", "http"]
        assert await server.by_socket(x_forwarded_for=FORGED) == ["127.0.0.1", "ws"]


async def test_behind_one_proxy_the_client_is_whom_the_proxy_saw(tmp_path: Path) -> None:
    async with asking(tmp_path, "127.0.0.1") as server:
        seen = {"x_forwarded_for": "192.0.2.1", "x_forwarded_proto": "https"}
        assert await server.by_http(**seen) == ["192.0.2.1", "https"]
        assert await server.by_socket(**seen) == ["192.0.2.1", "wss"]


async def test_what_a_client_puts_before_its_proxy_adds_is_not_believed(tmp_path: Path) -> None:
    async with asking(tmp_path, "127.0.0.0/8") as server:
        for added in (f"{FORGED}, 192.0.2.1", f"127.0.0.1, {FORGED}, 192.0.2.1", f", , {FORGED},192.0.2.1"):
            assert (await server.by_http(x_forwarded_for=added))[0] == "192.0.2.1"
            assert (await server.by_socket(x_forwarded_for=added))[0] == "192.0.2.1"


async def test_behind_two_proxies_the_client_is_whom_the_outer_one_saw(tmp_path: Path) -> None:
    async with asking(tmp_path, "127.0.0.1", OUTER) as server:
        for added in (f"192.0.2.1, {OUTER}", f"{FORGED}, 192.0.2.1, {OUTER}"):
            assert (await server.by_http(x_forwarded_for=added))[0] == "192.0.2.1"
            assert (await server.by_socket(x_forwarded_for=added))[0] == "192.0.2.1"


async def test_an_outer_proxy_that_is_not_named_is_itself_the_client(tmp_path: Path) -> None:
    async with asking(tmp_path, "127.0.0.1") as server:
        assert (await server.by_http(x_forwarded_for=f"192.0.2.1, {OUTER}"))[0] == OUTER


async def test_a_word_that_is_no_address_makes_nobody_somebody_else(tmp_path: Path) -> None:
    async with asking(tmp_path, "127.0.0.1") as server:
        assert (await server.by_http(x_forwarded_for="")) == ["127.0.0.1", "http"]
        assert (await server.by_http(x_forwarded_for="nonsense"))[0] == UNKNOWN
        assert (await server.by_http(x_forwarded_proto="javascript"))[1] == "http"


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_addresses_of_one_subscriber_count_as_one(address: str, key: str) -> None:
    assert client_key(connection(client=(address, 1))) == key


def test_a_connection_without_an_address_is_unknown() -> None:
    assert client_key(connection(client=None)) == UNKNOWN


def connection(**scope: Any) -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": [], **scope})


def test_a_listener_for_both_kinds_of_addresses_knows_its_proxies_of_the_old_kind() -> None:
    networks = load_settings(trusted_proxies="10.0.0.5, 10.1.0.0/16, 2001:db8::1").proxy_networks
    assert networks == [
        *("10.0.0.5/32", "10.1.0.0/16", "2001:db8::1/128"),
        *("::ffff:10.0.0.5/128", "::ffff:10.1.0.0/112"),
    ]


@pytest.mark.parametrize("proxy", ["*", "caddy", "10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.5:80"])
def test_a_proxy_is_named_by_its_address_and_never_is_everybody(proxy: str) -> None:
    with pytest.raises(SettingsError, match=r"^TERTULIA_TRUSTED_PROXIES holds"):
        load_settings(trusted_proxies=proxy)
