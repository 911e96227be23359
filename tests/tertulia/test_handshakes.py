"""Our short ways at the beginning of a socket and for its frames end where uvicorn's and `websockets`' own would."""

import asyncio
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from tertulia.frames import EXTENSION
from tertulia.handshakes import DirectHttpProtocol, usual_key
from tertulia.heads import BoundedHttpProtocol
from tertulia.serving import MAX_FRAME_BYTES, uvicorn_config

pytestmark = pytest.mark.asyncio
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    (b"Host", b"localhost:8000"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Protocol", b"graphql-transport-ws"),
]
ODD = [
    (b"Upgrade", b"WebSocket"),
    (b"Upgrade", b"h2c"),
    (b"Connection", b"keep-alive, Upgrade"),
    (b"Connection", b"close"),
    (b"Sec-WebSocket-Version", b"8"),
    (b"Sec-WebSocket-Key", b"short"),
    (b"Sec-WebSocket-Key", b"=" * 24),
    (b"Sec-WebSocket-Protocol", b"chat , graphql-transport-ws"),
    (b"Sec-WebSocket-Protocol", b'"quoted"'),
    (b"Sec-WebSocket-Protocol", b""),
    (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits"),
    (b"Sec-WebSocket-Extensions", b";;"),
    (b"Origin", b"http://localhost:8000"),
    (b"Content-Length", b"0"),
    (b"Transfer-Encoding", b"chunked"),
    (b"X-Header", b" spaces \t"),
    (b"X-Header", b"\xe9\xff"),
    (b"Cookie", b"a=" + b"x" * 9_000),
    (b"User-Agent", b""),
]


class Wire:
    """A transport that keeps what is written, and tells the protocol at once when it is closed."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self.written = b""
        self.closed = False
        protocol.connection_made(self)  # type: ignore[arg-type]

    def get_extra_info(self, name: str) -> object:
        return {"peername": ("192.0.2.1", 4444), "sockname": ("127.0.0.1", 8000)}.get(name)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Recorder:
    """An application that accepts sockets and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope["extensions"].pop(EXTENSION, None)
            self.told.append(scope)
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-more", b"1")]})
            while (message := await receive())["type"] == "websocket.receive":
                self.told.append(message)
            self.told.append(message)


async def outcome(head: bytes, frames: list[bytes], **classes: Any) -> tuple[list[Any], bytes, bool]:
    """What an application is told of a client that sends this, and what the client gets."""
    app, state = Recorder(), ServerState()
    state.default_headers = [(b"date", b"today")]
    config = uvicorn_config(app)
    for name, kind in classes.items():
        setattr(config, name, kind)
    config.load()
    wire = Wire(config.http_protocol_class(config=config, server_state=state, app_state={}))  # type: ignore[call-arg]
    for data in (head, *frames):
        if not wire.closed:
            wire.protocol.data_received(data)
        await settled(state)
    wire.close()
    await asyncio.gather(*state.tasks)
    return app.told, wire.written, wire.closed


async def settled(state: ServerState) -> None:
    """All that can be done has been done: it takes a task few steps to come to its next `receive`."""
    for _ in range(5 if state.tasks else 1):
        await asyncio.sleep(0)


def head_of(headers: list[tuple[bytes, bytes]], line: bytes = b"GET /graphql?a=%C3%A9 HTTP/1.1") -> bytes:
    return line + b"\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    headers = [each for each in HANDSHAKE if draw(st.integers(0, 15))]
    for odd in draw(st.lists(st.sampled_from(ODD), max_size=3)):
        if draw(st.booleans()):
            headers = [each for each in headers if each[0] != odd[0]]
        headers.insert(draw(st.integers(0, len(headers))), odd)
    usual = b"GET /graphql?a=%C3%A9 HTTP/1.1"
    odd_lines = [b"POST / HTTP/1.1", b"GET / HTTP/1.0", b"GET http://a/%2F%20b?x#y HTTP/1.1", b"GET /" + b"l" * 9_000]
    return head_of(headers, draw(st.sampled_from([usual] * 6 + odd_lines)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(heads())
@example(head_of(HANDSHAKE))
@example(head_of([*HANDSHAKE, (b"X-Header", b" spaces \t")]))
@example(head_of([*HANDSHAKE, *((b"X-%d" % number, b"") for number in range(140))]))
async def test_a_handshake_ends_as_it_would_by_the_long_way(head: bytes) -> None:
    assert without_dates(await outcome(head, [])) == without_dates(await outcome(head, [], http=BoundedHttpProtocol))


def without_dates(ended: tuple[list[Any], bytes, bool]) -> Any:
    told, written, closed = ended
    return told, [line for line in written.split(b"\r\n") if not line.startswith(b"Date")], closed


async def test_what_browsers_and_libraries_send_goes_the_short_way() -> None:
    usual = [(name.lower(), value) for name, value in HANDSHAKE]
    assert usual_key(usual) == KEY
    firefox = {b"connection": b"keep-alive, Upgrade", b"sec-websocket-protocol": b"graphql-transport-ws, graphql-ws"}
    assert usual_key([(name, firefox.get(name, value)) for name, value in usual]) == KEY
    assert usual_key([*usual, (b"origin", b"http://a"), (b"sec-websocket-extensions", b"permessage-deflate")]) == KEY
    assert issubclass(uvicorn_config(Recorder()).http, DirectHttpProtocol)  # type: ignore[arg-type]


def client_frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


TEXTS = [b"", b"a", "é😀".encode(), b"x" * 125, b"y" * 126, b"z" * 70_000, b"\xff", b"m" * MAX_FRAME_BYTES]
FRAMES = [
    *(client_frame(Opcode.TEXT, text) for text in TEXTS),
    client_frame(Opcode.TEXT, b"m" * (MAX_FRAME_BYTES + 1)),
    client_frame(Opcode.TEXT, b"be", fin=False),
    client_frame(Opcode.CONT, b"tween", fin=False),
    client_frame(Opcode.CONT, b"end"),
    client_frame(Opcode.BINARY, b"\x00\xff"),
    client_frame(Opcode.PING, b"ping"),
    client_frame(Opcode.PONG, b"pong"),
    client_frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"bye"),
    client_frame(Opcode.CLOSE, b""),
    Frame(Opcode.TEXT, b"not masked").serialize(mask=False),
    b"\xc1" + client_frame(Opcode.TEXT, b"reserved")[1:],
    b"\x81\xfe\x00\x02mask\x0c\x08",
]


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Frames as packets: one in one, several in one, or one in several."""
    likely = [0, 1, 2, 3, 9, 10, 11, 12, 13, 14]
    chosen = [FRAMES[draw(st.sampled_from([*likely, *range(len(FRAMES))]))] for _ in range(draw(st.integers(1, 6)))]
    packets: list[bytes] = []
    for frame in chosen:
        kind = draw(st.sampled_from(["whole", "whole", "whole", "joined", "cut"]))
        if kind == "joined" and packets:
            packets[-1] += frame
        elif kind == "cut":
            at = draw(st.integers(1, min(len(frame) - 1, 12)))
            packets += [frame[:at], frame[at:]]
        else:
            packets.append(frame)
    return packets


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations())
async def test_frames_are_read_as_the_whole_parser_reads_them(packets: list[bytes]) -> None:
    ours = await outcome(head_of(HANDSHAKE), packets)
    theirs = await outcome(head_of(HANDSHAKE), packets, http=HttpToolsProtocol, ws=WebSocketsSansIOProtocol)
    assert without_accept(ours) == without_accept(theirs)


def without_accept(ended: tuple[list[Any], bytes, bool]) -> Any:
    (_scope, *told), written, closed = ended
    return told, written.partition(b"\r\n\r\n")[2], closed
