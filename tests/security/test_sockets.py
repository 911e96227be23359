"""Who may use a socket, and for how long: every way to begin one without the right to, each with its close code.

Nothing is ever executed for somebody who is not signed in: `resolved` notes every resolver that is called.
"""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from graph.transport import Limits
from tests.doubles import ScriptedModel
from tests.graph.protocol import Socket, raw_socket
from tests.security.people import (
    FEED,
    FRIEND,
    Person,
    bearing,
    guarded,
    ready_socket,
    register,
    socket_of,
)
from tests.security.resolvers import Resolved
from tests.security.tokens import expiring
from tests.serving import Serving
from tests.system.polling import until

shared = pytest.mark.asyncio(loop_scope="module")
CREATE = 'mutation { createConversation(input: {title: "Mine"}) { conversation { id } errors { code } } }'
LIST = "{ conversations { totalCount } }"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(guard: Serving) -> Person:
    return await register(guard)


# ── beginning ──


@shared
@pytest.mark.parametrize("protocol", ["graphql-ws", "graphql-transport-ws2", "mqtt"])
async def test_another_protocol_gets_no_socket(guard: Serving, resolved: Resolved, protocol: str) -> None:
    async with raw_socket(guard.url, protocol=protocol) as connection:
        assert connection.subprotocol is None
        assert await Socket(connection).close_code() == 4406
    assert not resolved.fields


@shared
async def test_no_protocol_gets_no_socket(guard: Serving, resolved: Resolved) -> None:
    async with guard.http.ws_connect(f"{guard.url}/graphql", headers=bearing("x")) as socket:
        assert socket.protocol is None
        await socket.receive()
        assert socket.close_code == 4406
    assert not resolved.fields


WRONG_TOKENS = {
    "nothing": None,
    "no word": "x",
    "a JWT of somebody else": "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJ1c2VyXzEifQ.c2lnbmF0dXJl",
    "no algorithm": "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.eyJzdWIiOiJ1c2VyXzEifQ.",
    "an API key": "tk_" + "x" * 43,
    "an empty API key": "tk_",
    "other letters": "é🜏",
    "NUL": "tk_\0",
    "much": "x" * 100_000,
    "dots": "." * 1_000,
    "numbers": "1.1.1",
}


@shared
@pytest.mark.parametrize("token", WRONG_TOKENS.values(), ids=WRONG_TOKENS.keys())
async def test_who_shows_no_token_that_holds_is_closed_with_4403(
    guard: Serving, resolved: Resolved, token: str | None
) -> None:
    async with socket_of(guard.url, token) as socket:
        await socket.subscribe(CREATE)
        assert await socket.close_code() == 4403
    assert not resolved.fields


@shared
async def test_an_expired_token_is_closed_with_4403(guard: Serving, person: Person, resolved: Resolved) -> None:
    token = await expiring(person, -1)
    resolved.forget()
    async with socket_of(guard.url, token) as socket:
        await socket.subscribe(CREATE)
        assert await socket.close_code() == 4403
    assert not resolved.fields


@shared
async def test_a_refresh_token_is_no_access_token(guard: Serving, person: Person) -> None:
    async with socket_of(guard.url, person.refresh) as socket:
        assert await socket.close_code() == 4403


@shared
@pytest.mark.parametrize(
    "payload",
    [
        {"Authorization": "Bearer {}"},
        {"authorization": "bearer {}"},
        {"AUTHORIZATION": "BEARER {}"},
        {"headers": {"Authorization": "Bearer {}"}},
        {"headers": {"authorization": "Bearer {}"}, "x": 1},
    ],
)
async def test_a_token_may_be_in_the_payload_and_in_its_headers(
    guard: Serving, person: Person, payload: dict[str, Any]
) -> None:
    filled = json.loads(json.dumps(payload).replace("{}", person.access))
    async with raw_socket(guard.url) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init", payload=filled)
        assert (await socket.receive())["type"] == "connection_ack"


@shared
async def test_a_token_may_be_in_the_header_of_the_upgrade(guard: Serving, person: Person) -> None:
    async with raw_socket(guard.url, additional_headers=bearing(person.access)) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init")
        assert (await socket.receive())["type"] == "connection_ack"


@shared
async def test_an_api_key_is_a_token(guard: Serving, person: Person) -> None:
    _, key = await person.new_key()
    async with ready_socket(guard.url, key) as socket:
        await socket.subscribe(LIST)
        assert (await socket.receive())["payload"] == {"data": {"conversations": {"totalCount": 0}}}


@shared
async def test_a_token_that_does_not_hold_in_the_payload_is_not_replaced_by_one_in_the_header(
    guard: Serving, person: Person
) -> None:
    async with socket_of(guard.url, "wrong", additional_headers=bearing(person.access)) as socket:
        assert await socket.close_code() == 4403


@shared
async def test_an_operation_before_the_init_is_closed_with_4401(guard: Serving, resolved: Resolved) -> None:
    async with raw_socket(guard.url) as connection:
        socket = Socket(connection)
        await socket.subscribe(CREATE)
        assert await socket.close_code() == 4401
    assert not resolved.fields


@shared
async def test_a_token_in_the_header_of_the_upgrade_does_not_make_up_for_the_init(
    guard: Serving, person: Person, resolved: Resolved
) -> None:
    async with raw_socket(guard.url, additional_headers=bearing(person.access)) as connection:
        socket = Socket(connection)
        await socket.subscribe(CREATE)
        assert await socket.close_code() == 4401
    assert not resolved.fields


@shared
async def test_a_second_init_is_closed_with_4429(guard: Serving, person: Person) -> None:
    async with ready_socket(guard.url, person.access) as socket:
        await socket.send(type="connection_init", payload={"Authorization": f"Bearer {person.access}"})
        assert await socket.close_code() == 4429


@shared
async def test_a_second_init_after_a_refused_one_does_not_begin(
    guard: Serving, person: Person, resolved: Resolved
) -> None:
    async with socket_of(guard.url, "wrong") as socket:
        await socket.send(type="connection_init", payload={"Authorization": f"Bearer {person.access}"})
        await socket.subscribe(CREATE)
        assert await socket.close_code() == 4403
    assert not resolved.fields


@shared
async def test_operations_after_a_refusal_are_not_executed(guard: Serving, resolved: Resolved) -> None:
    async with socket_of(guard.url, None) as socket:
        for number in range(50):
            await socket.subscribe(CREATE, str(number))
        assert await socket.close_code() == 4403
    assert not resolved.fields


@shared
async def test_an_operation_in_the_same_packet_as_the_init_waits_for_it(guard: Serving, person: Person) -> None:
    async with raw_socket(guard.url) as connection:
        init = {"type": "connection_init", "payload": {"Authorization": f"Bearer {person.access}"}}
        asked = {"type": "subscribe", "id": "1", "payload": {"query": LIST}}
        for each in (init, asked):
            connection.protocol.send_text(json.dumps(each).encode())
        connection.transport.write(b"".join(connection.protocol.data_to_send()))
        socket = Socket(connection)
        assert [(await socket.receive())["type"] for _ in range(3)] == ["connection_ack", "next", "complete"]


@shared
@pytest.mark.parametrize("origin", ["https://stranger.example", "null", f"{FRIEND}.evil", "http://friend.example"])
async def test_a_foreign_origin_gets_no_socket_whatever_token_it_has(
    guard: Serving, person: Person, origin: str, resolved: Resolved
) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        await raw_socket(guard.url, origin=origin, additional_headers=bearing(person.access))
    assert not resolved.fields


# ── what is sent before ──


@shared
@pytest.mark.parametrize(
    "payload",
    [
        [],
        "text",
        1,
        True,
        {"Authorization": 1},
        {"Authorization": None},
        {"Authorization": ["Bearer x"]},
        {"Authorization": {"Bearer": "x"}},
        {"headers": []},
        {"headers": "Authorization: Bearer x"},
        {"headers": {"Authorization": {}}},
        {"headers": {"headers": {"Authorization": "Bearer x"}}},
        {"": ""},
        {"Authorization": "Basic eDp4"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer  "},
    ],
)
async def test_a_payload_of_another_shape_is_nobodys(guard: Serving, payload: Any, resolved: Resolved) -> None:
    async with raw_socket(guard.url) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init", payload=payload)
        await socket.subscribe(CREATE)
        assert await socket.close_code() == (4403 if isinstance(payload, dict) else 4400)
    assert not resolved.fields


@shared
@pytest.mark.parametrize("depth", [500, 60_000])
async def test_a_payload_of_any_depth_is_nobodys(guard: Serving, depth: int, resolved: Resolved) -> None:
    async with raw_socket(guard.url) as connection:
        deep = '{"headers":' * depth + "1" + "}" * depth if depth < 1_000 else "[" * depth + "]" * depth
        await connection.send(f'{{"type":"connection_init","payload":{{"x":{deep}}}}}')
        assert await Socket(connection).close_code() in (4400, 4403)
    assert not resolved.fields


@shared
@pytest.mark.parametrize(
    ("frame", "times", "code"),
    [
        ('{"type": "ping"}', 1_000, None),
        ('{"type": "pong"}', 1_000, None),
        ('{"type": "complete", "id": "1"}', 1_000, None),
        ('{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }"}}', 1_000, 4401),
        ("nonsense", 1_000, 4400),
        (b'{"type": "connection_init"}', 1, 4400),
        (b"\xff" * 1_000, 1, 4400),
        ("x" * 262_145, 1, 1009),
    ],
)
async def test_a_flood_before_the_init_executes_nothing_and_others_are_served(
    guard: Serving, person: Person, frame: str | bytes, times: int, code: int | None, resolved: Resolved
) -> None:
    began = perf_counter()
    async with raw_socket(guard.url) as connection:
        socket = Socket(connection)
        closing = asyncio.create_task(socket.close_code())
        for _ in range(times):
            if closing.done():
                break
            await connection.send(frame)
        print(f"{times} times {frame[:40]!r}: {perf_counter() - began:.2f} s")
        if code is not None:
            assert await closing == code
        closing.cancel()
    assert not resolved.fields
    assert (await person.ask(LIST))["conversations"]["totalCount"] == 0


async def test_silence_is_closed_with_4408(tmp_path: Path) -> None:
    async with guarded(tmp_path, ScriptedModel(), Limits(init_seconds=0.1)) as server:
        async with raw_socket(server.url) as connection:
            assert await Socket(connection).close_code() == 4408
        async with raw_socket(server.url) as connection:
            with suppress(ConnectionClosed):  # a slow one comes too late with its last
                for _ in range(5):
                    await connection.send('{"type": "ping"}')
            assert await Socket(connection).close_code() == 4408, "a ping is no beginning"


# ── limits of one that has begun ──


@shared
async def test_the_21st_operation_at_once_is_refused(guard: Serving, person: Person) -> None:
    async with ready_socket(guard.url, person.access) as socket:
        for number in range(20):
            await socket.subscribe(FEED, str(number))
            assert (await socket.receive())["type"] == "next"
        await socket.subscribe(FEED, "20")
        refusal = await socket.receive()
        assert (refusal["type"], refusal["id"]) == ("error", "20")


@shared
async def test_a_frame_that_is_too_long_is_closed_with_1009(guard: Serving, person: Person) -> None:
    async with ready_socket(guard.url, person.access) as socket:
        await socket.connection.send("x" * 262_145)
        assert await socket.close_code() == 1009


# ── what is left ──


@shared
async def test_sockets_leave_nothing_behind(guard: Serving, person: Person) -> None:
    tokens = [person.access, await expiring(person, 600), (await person.new_key())[1], "wrong"]
    before = len(asyncio.all_tasks())
    for number in range(200):
        async with socket_of(guard.url, tokens[number % 4]) as socket:
            if number % 4 < 3:
                await socket.receive()
                await socket.subscribe(FEED)
                await socket.receive()
    left = guard.running.services.watch._ends

    async def gone() -> bool:
        return not left and len(asyncio.all_tasks()) <= before

    assert await until(gone)
