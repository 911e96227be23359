"""The benchmark's checker notices what it is there for. It measures times; no test asserts one."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.dialects import OURS, PEER, SSE, Arrived
from bench.endpoint import CLOCK_MODULO
from bench.processes import Watched
from bench.servers import SQLITE, Server, endpoint, server
from bench.streams import TENTHS_TO_NANOSECONDS, Load, Tally, measure

ASKED, HEARD, DEPARTED, ARRIVED = 1_000, 1_020, 1_500, 1_530
"""In tenths of a millisecond."""


async def told(*texts: str, arrived: int = ARRIVED) -> AsyncIterator[Arrived]:
    for text in texts:
        yield arrived * TENTHS_TO_NANOSECONDS, text


async def tally_of(*texts: str, tokens: int = 3, arrived: int = ARRIVED, asked: int = ASKED) -> Tally:
    tally = Tally()
    await tally.follow(told(*texts, arrived=arrived), asked * TENTHS_TO_NANOSECONDS, tokens)
    return tally


async def test_a_whole_reply_has_nothing_wrong_however_it_is_cut() -> None:
    assert (await tally_of("0,1500,1020 1,1510 2,1520 ")).wrong == 0
    assert (await tally_of("0,1500,1020 ", "1,1510 2,1520 ")).wrong == 0


async def test_tokens_that_are_lost_doubled_or_swapped_are_noticed() -> None:
    assert (await tally_of("0,1500,1020 2,1520 ")).wrong
    assert (await tally_of("0,1500,1020 1,1510 1,1510 2,1520 ")).wrong
    assert (await tally_of("0,1500,1020 2,1520 1,1510 ")).wrong
    assert (await tally_of("0,1500,1020 1,1510 ")).wrong
    assert (await tally_of("0,1500,1020 1,1510 2,1520 3,1530 ")).wrong
    assert (await tally_of()).wrong


async def test_a_delay_is_from_departure_to_arrival_and_the_first_token_counts_without_the_endpoint() -> None:
    tally = await tally_of("0,1500,1020 ", tokens=1)
    assert list(tally.delays) == [3.0]
    assert tally.first == [3.0 + 2.0]


async def test_the_clock_may_begin_anew_in_between() -> None:
    before = CLOCK_MODULO - 5
    tally = await tally_of(f"0,{before},{before - 10} ", tokens=1, arrived=CLOCK_MODULO + 5, asked=before - 12)
    assert list(tally.delays) == [1.0]
    assert [round(first, 6) for first in tally.first] == [1.2]


async def test_a_server_of_ours_delivers_every_token_in_order(tmp_path: Path) -> None:
    async with endpoint() as upstream, server(SQLITE, upstream) as running:
        found = await measure(running, OURS, Load(3, 5, 50))
    assert (found.wrong, found.failed) == (0, 0)


async def test_streams_that_are_refused_or_break_off_are_counted_and_the_others_go_on(tmp_path: Path) -> None:
    asked = 0

    async def breaks_off(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked % 3 == 0:
            return web.Response(status=503)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"text": "0,1500,1020 "}\n\n' + b"data: [DONE]\n\n" * (asked % 3 == 1))
        return response

    async def closes(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=["graphql-transport-ws"])
        await socket.prepare(request)
        await socket.receive()
        await socket.send_json({"type": "connection_ack"})
        await socket.receive()
        await socket.close()
        return socket

    app = web.Application()
    app.add_routes([web.post("/chat", breaks_off), web.get("/graphql", closes)])
    async with TestServer(app, host="127.0.0.1") as running:
        peer = Server("a peer", Watched(os.getpid(), running.port or 0), tmp_path, None, "")
        events = await measure(peer, SSE, Load(6, 1, 50))
        sockets = await measure(peer, PEER, Load(3, 1, 50, readers=2))
    assert (events.failed, events.wrong) == (4, 0)
    assert (sockets.failed, sockets.wrong) == (3, 0)
