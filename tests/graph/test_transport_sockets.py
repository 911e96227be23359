"""graphql-transport-ws over real sockets: every close code, refusals, limits, and operations that spare the others."""

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from domain.errors import Unavailable
from graph.transport import Limits
from tests.graph.protocol import ABSENT, SECRET, WATCH, Api, Socket, api, raw_socket
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")
FRIEND = "https://friend.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Api]:
    async with api(Limits(send_seconds=0.2), origins=(FRIEND,)) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def socket(server: Api) -> AsyncIterator[Socket]:
    server.plays()
    async with server.ready_socket() as ready:
        yield ready


async def test_a_socket_that_does_not_begin_is_closed_with_4408() -> None:
    async with api(Limits(init_seconds=0.05)) as server, server.socket() as socket:
        assert await socket.close_code() == 4408


@pytest.mark.parametrize(
    "frame",
    [
        "nonsense",
        "[]",
        '"text"',
        "null",
        "{}",
        '{"type": 1}',
        json.dumps({"type": "x" * 500}),
        '{"type": "subscribe"}',
        '{"type": "subscribe", "id": "1"}',
        '{"type": "subscribe", "id": 1, "payload": {"query": "{ __typename }"}}',
        '{"type": "subscribe", "id": "", "payload": {"query": "{ __typename }"}}',
        '{"type": "subscribe", "id": "1", "payload": []}',
        '{"type": "subscribe", "id": "1", "payload": {"query": 1}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }", "operationName": 1}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }", "variables": []}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }", "extensions": 1}}',
        '{"type": "complete"}',
        '{"type": "ping", "payload": 1}',
        b'{"type": "ping"}',
    ],
)
async def test_a_message_of_the_wrong_shape_closes_the_socket_with_4400(socket: Socket, frame: str | bytes) -> None:
    await socket.connection.send(frame)
    assert await socket.close_code() == 4400


async def test_an_init_with_a_wrong_payload_closes_the_socket_with_4400(server: Api) -> None:
    async with server.socket() as socket:
        await socket.send(type="connection_init", payload=[])
        assert await socket.close_code() == 4400


@pytest.mark.parametrize("payload", [{}, {"payload": None}, {"payload": {"token": "x"}}])
async def test_an_init_may_have_any_object_or_nothing(server: Api, payload: dict[str, Any]) -> None:
    async with server.socket() as socket:
        await socket.send(type="connection_init", **payload)
        assert await socket.receive() == {"type": "connection_ack"}


async def test_an_operation_before_the_ack_closes_the_socket_with_4401(server: Api) -> None:
    async with server.socket() as socket:
        await socket.subscribe(WATCH)
        assert await socket.close_code() == 4401


async def test_an_id_that_is_in_use_closes_the_socket_with_4409(server: Api, socket: Socket) -> None:
    server.plays(asyncio.Event())
    await socket.subscribe(WATCH, "x" * 500)
    await socket.subscribe(WATCH, "x" * 500)
    assert await socket.close_code() == 4409


async def test_an_id_is_free_again_after_its_operation(server: Api, socket: Socket) -> None:
    server.plays("Hello")
    for _ in range(3):
        await socket.subscribe(WATCH)
        assert [(await socket.receive())["type"] for _ in range(2)] == ["next", "complete"]


async def test_a_second_init_closes_the_socket_with_4429(socket: Socket) -> None:
    await socket.send(type="connection_init")
    assert await socket.close_code() == 4429


async def test_another_protocol_is_closed_with_4406(server: Api) -> None:
    async with server.socket(protocol="graphql-ws") as socket:
        assert await socket.close_code() == 4406


async def test_a_frame_above_256_kib_closes_the_socket_with_1009(socket: Socket) -> None:
    await socket.subscribe("{ __typename } #" + "x" * 262_144)
    assert await socket.close_code() == 1009


async def test_a_frame_within_256_kib_is_served(socket: Socket) -> None:
    payload = {"query": "{ __typename }", "variables": {"unused": "x" * 250_000}}
    await socket.send(type="subscribe", id="1", payload=payload)
    assert (await socket.receive())["payload"] == {"data": {"__typename": "Query"}}


async def test_a_ping_is_answered(socket: Socket) -> None:
    await socket.send(type="ping", payload={"now": 1})
    assert await socket.receive() == {"type": "pong"}


@pytest.mark.parametrize("origin", ["https://stranger.example", "null", "https://friend.example.evil"])
async def test_a_strange_origin_gets_no_socket(server: Api, origin: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        await raw_socket(server.url, origin=origin)


async def test_a_listed_origin_and_our_own_get_a_socket(server: Api) -> None:
    for origin in (FRIEND, server.url):
        async with server.ready_socket(origin=origin):
            pass


async def test_one_operation_too_many_is_refused_alone(server: Api, socket: Socket) -> None:
    gate = asyncio.Event()
    server.plays(gate)
    for number in range(21):
        await socket.subscribe(WATCH, str(number))
    refusal = await socket.receive()
    assert (refusal["type"], refusal["id"]) == ("error", "20")
    gate.set()
    ended = [await socket.receive() for _ in range(20)]
    assert {message["type"] for message in ended} == {"complete"}


@pytest.mark.parametrize("query", [ABSENT, "subscription { nothing }", "{", "", "fragment F on Query { __typename }"])
async def test_a_refusal_is_an_error_message_and_the_socket_stays(socket: Socket, query: str) -> None:
    await socket.subscribe(query)
    refusal = await socket.receive()
    assert (refusal["type"], refusal["id"], len(refusal["payload"])) == ("error", "1", 1)
    await socket.subscribe("{ __typename }")
    assert (await socket.receive())["type"] == "next"


async def test_an_operation_that_is_not_in_the_document_is_named_in_the_refusal(socket: Socket) -> None:
    payload = {"query": "query A { __typename }", "operationName": "B"}
    await socket.send(type="subscribe", id="1", payload=payload)
    assert '"B"' in (await socket.receive())["payload"][0]["message"]


async def test_an_unexpected_refusal_tells_nothing_but_where_to_look(server: Api, socket: Socket) -> None:
    server.plays().refusal = RuntimeError("secret")
    await socket.subscribe(WATCH)
    refusal = await socket.receive()
    [(correlation_id, error)] = server.unexpected
    assert (refusal["type"], str(error)) == ("error", "secret")
    assert refusal["payload"][0]["extensions"] == {"code": "INTERNAL", "correlationId": correlation_id}
    assert "secret" not in json.dumps(refusal)


async def test_an_unexpected_failure_of_a_query_tells_nothing_but_where_to_look(server: Api, socket: Socket) -> None:
    await socket.subscribe(SECRET)
    answer = json.dumps(await socket.receive())
    assert ("secret" in answer, server.unexpected[0][0] in answer) == (False, True)


@pytest.mark.parametrize("fault", [RuntimeError("secret"), Unavailable()])
async def test_a_stream_that_fails_midway_closes_the_socket_with_1013(
    server: Api, socket: Socket, fault: Exception
) -> None:
    server.plays("one", fault)
    await socket.subscribe(WATCH)
    assert (await socket.receive())["type"] == "next"
    assert await socket.close_code() == 1013
    assert server.observed == [("replyStream", "subscription", "error")]


async def test_a_stream_that_cannot_begin_yet_closes_the_socket_with_1013(server: Api, socket: Socket) -> None:
    server.plays().refusal = Unavailable()
    await socket.subscribe(WATCH)
    assert await socket.close_code() == 1013


async def test_two_operations_of_a_socket_share_no_loaders(server: Api, socket: Socket) -> None:
    for _ in range(2):
        await socket.subscribe('{ a: message(id: "m") { id } b: message(id: "m") { id } }')
        assert [(await socket.receive())["type"] for _ in range(2)] == ["next", "complete"]
    assert server.conversations.asked == [["m"], ["m"]]


async def test_an_operation_that_the_client_completes_is_forgotten_at_once(server: Api, socket: Socket) -> None:
    stream = server.plays("one", asyncio.Event())
    await socket.subscribe(WATCH)
    await socket.receive()
    await socket.send(type="complete", id="1")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await stream.closed.wait()
    assert server.observed == [("replyStream", "subscription", "ok")]


@pytest.mark.parametrize("politely", [True, False])
async def test_the_operations_of_a_socket_that_goes_are_forgotten_at_once(server: Api, politely: bool) -> None:
    stream = server.plays("one", asyncio.Event())
    async with server.ready_socket() as socket:
        await socket.subscribe(WATCH)
        await socket.receive()
        if politely:
            await socket.connection.close()
        else:
            socket.connection.transport.abort()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await stream.closed.wait()


async def test_every_operation_is_reported_once_by_its_root_field(server: Api, socket: Socket) -> None:
    server.plays("one")
    for query in (WATCH, ABSENT, "{ mine: __typename }", "{ nothing }"):
        await socket.subscribe(query)
        while (await socket.receive())["type"] not in ("complete", "error"):
            pass
    assert server.observed == [
        ("replyStream", "subscription", "ok"),
        ("replyStream", "subscription", "error"),
        ("__typename", "query", "ok"),
        ("invalid", "unknown", "error"),
    ]


async def test_a_client_that_stops_reading_is_given_up(server: Api) -> None:
    stream = server.plays(*["x" * 1_000_000] * 30)
    small = sockets.socket()
    small.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    host, port = server.url.removeprefix("http://").split(":")
    small.connect((host, int(port)))
    async with server.ready_socket(sock=small, max_queue=1, max_size=None) as socket:
        await socket.subscribe(WATCH)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await stream.closed.wait()
        socket.connection.transport.abort()
