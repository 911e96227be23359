"""Long headers and addresses are refused before anything reads them, over HTTP and where a socket is asked for."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from starlette.types import Message, Scope

from tertulia.heads import HeadLimits
from tests.doubles import ScriptedModel, answer
from tests.security.people import guarded
from tests.serving import Serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
BODY = b'{"query": "{ server { version } }"}'
KIB = 1_024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    folder: Path = tmp_path_factory.mktemp("heads")
    async with guarded(folder, ScriptedModel(answer("Hello")), refresh_cookie=True) as running:
        yield running


async def raw(server: Serving, *pieces: bytes) -> bytes:
    """What the server says until it closes the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    said = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await said
    finally:
        writer.close()


async def posted(server: Serving, headers: dict[str, str], path: str = "/graphql") -> tuple[int, Any]:
    headers = {"content-type": "application/json"} | headers
    async with server.http.post(server.url + path, data=BODY, headers=headers) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json;" + ";" * 16_384},
        {"accept": ";" * 16_384},
        {"cookie": 'tertulia_refresh="' + "\\" * 16_384},
        {"authorization": "Bearer " + "x" * 16_384},
        {f"x-{number}": "x" * 1_000 for number in range(17)},
    ],
    ids=["content-type", "accept", "cookie", "authorization", "many"],
)
async def test_headers_above_16_kib_are_refused(server: Serving, headers: dict[str, str]) -> None:
    status, body = await posted(server, headers)
    assert status == 431
    assert "16,384" in body["errors"][0]["message"]


async def test_an_address_above_16_kib_is_refused(server: Serving) -> None:
    assert (await posted(server, {}, "/graphql?a=" + "x" * 7_000))[0] == 200
    line = b"GET /graphql?a=" + b"x" * 16_384 + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert b"414 " in (await raw(server, line)).split(b"\r\n")[0]


@pytest.mark.parametrize("name", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n", b""])
async def test_a_head_that_does_not_end_is_not_kept(server: Serving, name: bytes) -> None:
    piece = {b"GET / HTTP/1.1\r\n": b"x: y\r\n" * 4_000, b"": b"\r\n" * 8_000}.get(name, b"y" * 16_384)
    assert (await raw(server, name, *[piece] * 5)).startswith(b"HTTP/1.1 431 ")


async def test_what_follows_a_body_without_end_ends_the_connection(server: Serving) -> None:
    head = b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "
    await raw(server, head, *[b"y" * 16_384] * 5)


async def test_a_long_body_is_no_long_head(server: Serving) -> None:
    body = json.dumps({"query": "{ server { version } }", "variables": {"a": "x" * 200_000}}).encode()
    async with server.http.post(
        f"{server.url}/graphql", data=body, headers={"content-type": "application/json"}
    ) as response:
        assert response.status == 200


async def test_a_socket_with_long_headers_is_refused(server: Serving) -> None:
    head = (
        b"GET /graphql HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"sec-websocket-protocol: graphql-transport-ws\r\n"
    )
    more = b"".join(b"x-%d: %s\r\n" % (number, b"x" * 1_000) for number in range(17))
    assert (await raw(server, head + more + b"\r\n")).startswith(b"HTTP/1.1 431 ")


async def test_the_application_refuses_them_under_any_server() -> None:
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def nothing(*_: Any) -> Message:
        raise AssertionError("passed on")

    async def app(*_: Any) -> None:
        raise AssertionError("passed on")

    scope: Scope = {"type": "http", "path": "/", "query_string": b"", "headers": [(b"a", b"x" * 16_384)]}
    await HeadLimits(app)(scope, nothing, send)
    assert told[0]["status"] == 431


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json" + ";" * 15_000}, 415),
        ({"accept": "text/event-stream" + ";" * 15_000}, 200),
        ({"accept": ("a;" * 125 + ",") * 60}, 200),
    ],
    ids=["content-type", "accept", "long accept"],
)
async def test_headers_within_16_kib_cost_at_most_50_ms_of_cpu(
    server: Serving, headers: dict[str, str], status: int
) -> None:
    spent = []
    for number in range(5):
        began = time.process_time()
        given, _ = await posted(server, {name: value + str(number) for name, value in headers.items()})
        spent.append((time.process_time() - began) * 1_000)
        assert given == status
    print(f"{min(spent):.1f} ms")
    assert min(spent) <= 50


async def test_a_cookie_that_is_too_long_is_not_read(server: Serving) -> None:
    body = b'{"query": "mutation { refreshSession(input: {}) { errors { code } } }"}'
    head = (
        b"POST /graphql HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b'cookie: tertulia_refresh="' + b"\\" * 15_000 + b'"\r\ncontent-length: %d\r\n\r\n' % len(body)
    )
    spent = []
    for _ in range(5):
        began = time.process_time()
        assert b"SESSION_EXPIRED" in await raw(server, head + body)
        spent.append((time.process_time() - began) * 1_000)
    print(f"{min(spent):.1f} ms")
    assert min(spent) <= 50
