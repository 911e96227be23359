"""The smallest client of graphql-transport-ws, for thousands of sockets in one process: no task, no buffer of its own.

Its frames have a mask of zeros, which is legal (RFC 6455, 5.3) and costs nothing. Knows nothing of what is asked for.
"""

import asyncio
import json
import struct
from typing import Any, cast
from urllib.parse import urlsplit

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
NO_MASK = b"\0\0\0\0"


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame of a client."""
    size = len(payload)
    if size < 126:
        return bytes((opcode, 0x80 | size)) + NO_MASK + payload
    return struct.pack("!BBH", opcode, 0x80 | 126, size) + NO_MASK + payload


class Wire(asyncio.Protocol):
    """One socket. `received` has the messages that nobody has taken yet."""

    __slots__ = ("_buffer", "_open", "_waiter", "lost", "received", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received: list[dict[str, Any]] = []
        self.lost = False
        self._open = False
        self._buffer = b""
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(head.decode(errors="replace"))
            self._open, self._buffer = True, rest
            self._wake()
        while (end := self._end()) and len(self._buffer) >= end[1]:
            opcode, payload = self._buffer[0], self._buffer[end[0] : end[1]]
            self._buffer = self._buffer[end[1] :]
            self._take(opcode, payload)

    def send(self, **message: object) -> None:
        assert self.transport is not None
        self.transport.write(frame(TEXT, json.dumps(message).encode()))

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises ConnectionError when there will be none."""
        while not self.received:
            await self._news()
        return self.received.pop(0)

    async def opened(self) -> None:
        while not self._open:
            await self._news()

    def close(self) -> None:
        assert self.transport is not None
        self.transport.write(frame(CLOSE, b"\x03\xe8"))
        self.transport.close()

    async def _news(self) -> None:
        if self.lost:
            raise ConnectionError("the server closed the socket")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _end(self) -> tuple[int, int] | None:
        """Where the payload of the first frame begins and ends."""
        if len(self._buffer) < 4:
            return (2, 2 + self._buffer[1]) if len(self._buffer) >= 2 else None
        size = self._buffer[1]
        if size == 126:
            return 4, 4 + int.from_bytes(self._buffer[2:4], "big")
        if size == 127:
            return 10, 10 + int.from_bytes(self._buffer[2:10], "big")
        return 2, 2 + size

    def _take(self, opcode: int, payload: bytes) -> None:
        assert self.transport is not None
        if opcode == PING:
            self.transport.write(frame(PONG, payload))
        elif opcode == CLOSE:
            self.transport.close()
        elif opcode == TEXT:
            self.received.append(json.loads(payload))
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connected(url: str, path: str = "/graphql") -> Wire:
    """A socket whose connection_init was acknowledged."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    transport, wire = await loop.create_connection(Wire, address.hostname, address.port)
    transport.write(HANDSHAKE.format(path=path, host=address.netloc).encode())
    await wire.opened()
    wire.send(type="connection_init")
    assert (await wire.receive())["type"] == "connection_ack"
    return wire
