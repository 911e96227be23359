"""Who may call a server that has no accounts: only this machine, whatever name a web page gives it."""

from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.doubles import ScriptedModel
from tests.serving import Serving, serving, settings_for


async def status(server: Serving, host: str) -> int:
    async with server.http.get(f"{server.url}/healthz", headers={"host": host}) as response:
        return response.status


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
async def test_this_machines_own_names_are_served(server: Serving, host: str) -> None:
    assert await status(server, host) == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "0.0.0.0"])
async def test_a_name_that_somebody_elses_dns_points_here_is_refused(server: Serving, host: str) -> None:
    assert await status(server, host) == 400


async def test_a_socket_under_a_foreign_name_is_refused(server: Serving) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    address = f"ws://evil.example:{port}/graphql"
    with pytest.raises(InvalidStatus):
        await connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], host="127.0.0.1", port=port)


async def test_the_names_of_a_proxy_are_served_when_the_setting_says_so(tmp_path: Path, model: ScriptedModel) -> None:
    async with serving(settings_for(tmp_path, allowed_hosts=("chat.example",)), model) as server:
        assert await status(server, "chat.example") == 200
        assert await status(server, "localhost") == 400


@pytest.mark.parametrize("host", ["192.0.2.7", "[2001:db8::7]:8000"])
async def test_an_address_is_no_name_that_a_page_could_have(server: Serving, host: str) -> None:
    assert await status(server, host) == 200


def test_without_accounts_a_server_for_others_has_no_name_but_localhost(tmp_path: Path) -> None:
    anywhere = settings_for(tmp_path, host="0.0.0.0", allow_anonymous=True)
    assert "*" not in anywhere.hosts
    assert anywhere.model_copy(update={"auth": "password"}).hosts == ("*",)
