"""How streams end on a whole server: readers that leave are counted out, and a server that stops says come again."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tertulia.serving import drop_unread_connections
from tests.doubles import ScriptedModel, answer
from tests.graph.readers import Broken, Event, Read, by_multipart, by_socket, by_sse
from tests.patience import PATIENCE_SECONDS
from tests.serving import Serving
from tests.system.processes import graphql, server_process
from tests.system.upstream import upstream

SEND = 'mutation { sendMessage(input: {text: "Hi"}) { reply { id } } }'


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel([*answer("Hello")[:-1], asyncio.Event()])


@pytest.mark.parametrize("read", [by_socket, by_sse, by_multipart])
async def test_a_reader_is_counted_while_it_reads_and_no_longer(server: Serving, read: Read) -> None:
    sent = await server.ask(SEND)
    events = read(server.url, sent["sendMessage"]["reply"]["id"], None)
    assert (await anext(events))["__typename"] == "ReplySnapshot"
    assert await subscribers(server) == 1
    await events.aclose()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await subscribers(server):
            pass


async def subscribers(server: Serving) -> float:
    async with server.http.get(f"{server.url}/metrics") as response:
        found = re.search(r"^tertulia_subscribers (\S+)$", await response.text(), re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux ends unread connections by itself")
def test_the_system_ends_connections_that_nobody_reads() -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        drop_unread_connections(listener)
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


async def test_a_server_that_stops_closes_its_sockets_with_1012(tmp_path: Path) -> None:
    async with (
        upstream(tokens=10_000) as endpoint,
        server_process(tmp_path, endpoint.base_url, TERTULIA_SHUTDOWN_GRACE="0") as server,
    ):
        sent: Any = await graphql(server.url, SEND)
        events = by_socket(server.url, sent["sendMessage"]["reply"]["id"], None)
        await anext(events)
        stopping = asyncio.create_task(server.terminate())
        with pytest.raises(Broken) as broken:
            await exhaust(events)
        assert isinstance(broken.value.__cause__, ConnectionClosed)
        assert broken.value.__cause__.rcvd is not None
        assert broken.value.__cause__.rcvd.code == 1012
        await server.kill()
        await stopping


async def exhaust(events: AsyncIterator[Event]) -> None:
    async for _ in events:
        pass
