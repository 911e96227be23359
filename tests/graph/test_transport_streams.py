"""Streams over HTTP: the frames of both protocols, refusals, heartbeats, and every way in which a stream may end."""

import asyncio
import email
import json
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio

from domain.errors import Unavailable
from graph.transport import Limits
from tests.graph.protocol import ABSENT, MULTIPART, SECRET, SSE, WATCH, Api, api
from tests.patience import PATIENCE_SECONDS

BOTH = pytest.mark.parametrize("headers", [SSE, MULTIPART], ids=["sse", "multipart"])
MUTATION = 'mutation { stopReply(input: {replyId: "x"}) { errors { message } } }'


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Api]:
    async with api(Limits(heartbeat_seconds=0.05, send_seconds=0.2)) as made:
        yield made


async def body_of(server: Api, query: str, headers: dict[str, str]) -> bytes:
    async with server.post(query, headers) as response:
        assert response.status == 200
        body: bytes = await response.read()
        return body


async def body_until_it_broke(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    try:
        while not response.content.at_eof():
            body += await response.content.readany()
    except aiohttp.ClientPayloadError:
        return body
    raise AssertionError(f"the stream ended as if it were whole: {body!r}")


def results_in(body: bytes, headers: dict[str, str]) -> list[Any]:
    if headers is SSE:
        frames = [frame for frame in body.decode().split("\n\n") if frame and not frame.startswith(":")]
        assert frames.pop() == "event: complete\ndata: "
        return [json.loads(frame.removeprefix("event: next\ndata: ")) for frame in frames]
    head = b'Content-Type: multipart/mixed;boundary="graphql";subscriptionSpec=1.0\r\n\r\n'
    message = email.message_from_bytes(head + body)
    assert not message.defects
    parts = [json.loads(str(part.get_payload())) for part in message.walk() if part is not message]
    return [part["payload"] for part in parts if part]


@BOTH
async def test_results_come_in_the_frames_of_the_protocol(server: Api, headers: dict[str, str]) -> None:
    server.plays("a\r\nb", "ñ🎉", "")
    results = results_in(await body_of(server, WATCH, headers), headers)
    assert [result["data"]["replyStream"] for result in results] == [
        {"cursor": "cursor-0", "text": "a\r\nb"},
        {"cursor": "cursor-1", "text": "ñ🎉"},
        {"cursor": "cursor-2", "text": ""},
    ]


@BOTH
@pytest.mark.parametrize("query", [ABSENT, "subscription { nothing }", "{", "mutation { nothing }"])
async def test_a_refusal_is_one_result_without_data_in_a_whole_stream(
    server: Api, query: str, headers: dict[str, str]
) -> None:
    [refusal] = results_in(await body_of(server, query, headers), headers)
    assert refusal.keys() == {"errors"}


@BOTH
async def test_queries_are_answered_over_a_stream_too(server: Api, headers: dict[str, str]) -> None:
    body = await body_of(server, "{ __typename }", headers)
    assert results_in(body, headers) == [{"data": {"__typename": "Query"}}]


async def test_a_stream_can_be_opened_by_address_as_browsers_do(server: Api) -> None:
    server.plays("Hello")
    address = f"{server.url}/graphql?{urlencode({'query': WATCH})}"
    async with server.http.get(address, headers=SSE) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        [result] = results_in(await response.read(), SSE)
    assert result["data"]["replyStream"]["text"] == "Hello"


async def test_a_stream_that_is_opened_by_address_cannot_mutate(server: Api) -> None:
    address = f"{server.url}/graphql?{urlencode({'query': MUTATION})}"
    async with server.http.get(address, headers=SSE) as response:
        [result] = results_in(await response.read(), SSE)
    assert result["errors"][0]["message"] == "mutations are not allowed"


@BOTH
async def test_a_silent_stream_has_heartbeats_that_change_no_result(server: Api, headers: dict[str, str]) -> None:
    gate = asyncio.Event()
    server.plays("one", gate, "two")
    async with server.post(WATCH, headers) as response:
        body = b""
        while body.count(b":\n\n" if headers is SSE else b"{}\r\n") < 5:
            body += await response.content.readany()
        gate.set()
        body += await response.read()
    assert [result["data"]["replyStream"]["text"] for result in results_in(body, headers)] == ["one", "two"]


@BOTH
async def test_a_reader_that_leaves_is_forgotten_at_once(server: Api, headers: dict[str, str]) -> None:
    stream = server.plays("one", asyncio.Event())
    async with server.post(WATCH, headers) as response:
        while b"one" not in await response.content.readany():
            pass
    async with asyncio.timeout(PATIENCE_SECONDS):
        await stream.closed.wait()
    assert server.observed == [("replyStream", "subscription", "ok")]


@BOTH
@pytest.mark.parametrize("fault", [RuntimeError("secret"), Unavailable()])
async def test_a_stream_that_fails_midway_breaks_off_unfinished(
    server: Api, headers: dict[str, str], fault: Exception
) -> None:
    server.plays("one", fault)
    async with server.post(WATCH, headers) as response:
        body = await body_until_it_broke(response)
    assert b"one" in body
    assert not any(word in body for word in (b"secret", b"errors", b"complete", b"graphql--"))
    assert server.observed == [("replyStream", "subscription", "error")]


@BOTH
async def test_a_stream_that_cannot_begin_yet_breaks_off_so_that_it_is_tried_again(
    server: Api, headers: dict[str, str]
) -> None:
    server.plays().refusal = Unavailable()
    async with server.post(WATCH, headers) as response:
        assert b"errors" not in await body_until_it_broke(response)


@BOTH
async def test_an_unexpected_refusal_tells_nothing_but_where_to_look(server: Api, headers: dict[str, str]) -> None:
    server.plays().refusal = RuntimeError("secret")
    body = await body_of(server, WATCH, headers)
    [(correlation_id, error)] = server.unexpected
    assert (b"secret" in body, correlation_id.encode() in body, str(error)) == (False, True, "secret")


@BOTH
async def test_an_unexpected_failure_of_a_query_tells_nothing_but_where_to_look(
    server: Api, headers: dict[str, str]
) -> None:
    server.plays()
    body = await body_of(server, SECRET, headers)
    assert (b"secret" in body, server.unexpected[0][0].encode() in body) == (False, True)


@BOTH
async def test_a_reader_that_stops_reading_is_given_up(server: Api, headers: dict[str, str]) -> None:
    stream = server.plays(*["x" * 1_000_000] * 30)
    _, writer = await unread(server.url, headers)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await stream.closed.wait()
    writer.transport.abort()


async def unread(url: str, headers: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that asks for the stream and then takes no more than its system's smallest buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.setblocking(False)
    host, port = url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1_024)
    body = json.dumps({"query": WATCH})
    accept = headers["accept"]
    writer.write(
        f"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: {accept}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    await writer.drain()
    return reader, writer
