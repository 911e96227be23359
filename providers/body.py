"""The body of an answer as bytes, as they arrive, read past those layers of the client libraries that do nothing to it.

Knows the private parts of these libraries, and nothing of what the bytes mean.
"""

import asyncio
import os
from socket import socket
from typing import Any, NamedTuple, Protocol

import aiohttp
import httpx2
from aiohttp.connector import Connection

FETCH_BYTES = 65_536
"""What is fetched at once from a connection that was paused; the rest comes with the next read."""


class Body(Protocol):
    def arrived(self) -> bytes:
        """What is there and was not read yet, also if the connection has broken since; perhaps nothing."""

    async def more(self) -> bytes:
        """What arrives next, where nothing is left of what had arrived; nothing at the end."""

    def pause(self) -> None:
        """Let what arrives wait for the next read, unseen, where that is possible."""


_PRIVATE = ("_read_nowait", "_low_water")


def body_of(response: httpx2.Response) -> Body:
    """The direct one where nothing has to be decoded, and the libraries are as they were when this was written."""
    answer = getattr(getattr(response.stream, "_stream", None), "_aiohttp_response", None)
    if "content-encoding" in response.headers or not isinstance(answer, aiohttp.ClientResponse):
        return LayeredBody(response)
    has_parts = all(hasattr(answer.content, name) for name in _PRIVATE)  # those of an empty body lack them
    return DirectBody(answer) if has_parts else LayeredBody(response)


class LayeredBody:
    """What the client library makes of it, in pieces of its own size."""

    def __init__(self, response: httpx2.Response) -> None:
        self._pieces = response.aiter_bytes()

    def arrived(self) -> bytes:
        return b""

    async def more(self) -> bytes:
        return await anext(self._pieces, b"")

    def pause(self) -> None:
        pass


class _Wire(NamedTuple):
    """A connection on whose socket lies what was sent, as it was sent."""

    transport: asyncio.Transport
    socket: socket
    protocol: asyncio.Protocol


class DirectBody:
    """What aiohttp makes of it.

    While a plain connection is paused, packets that arrive do not wake the event loop, which costs several times what
    it costs to fetch all of them at once and hand them on as the event loop would have done.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._content: Any = response.content
        self._content._low_water = 1  # or each read makes sure, for each packet, that more is read from the connection
        self._wire = None if response.connection is None else _wire(response.connection)
        self._paused = False

    def arrived(self) -> bytes:
        if self._paused and self._wire is not None:
            self._paused = False
            _fetch(self._wire)
        arrived: bytes = self._content._read_nowait(-1)  # the public one raises first if the connection has broken
        return arrived

    async def more(self) -> bytes:
        if self._wire is not None and not self._content.is_eof():
            self._wire.transport.resume_reading()
        more: bytes = await self._content.readany()
        return more

    def pause(self) -> None:
        """After the end the connection may be another answer's already."""
        if self._wire is not None and not self._content.is_eof():
            self._wire.transport.pause_reading()
            self._paused = True


def _wire(connection: Connection) -> _Wire | None:
    transport, protocol = connection.transport, connection.protocol
    if transport is None or protocol is None or transport.get_extra_info("sslcontext"):
        return None
    socket = transport.get_extra_info("socket")
    return None if socket is None else _Wire(transport, socket, protocol)


def _fetch(wire: _Wire) -> None:
    """The event loop will hear of ends and failures too. A socket that was closed has no descriptor any more."""
    try:
        data = os.read(wire.socket.fileno(), FETCH_BYTES)
    except OSError:
        return
    if data:
        wire.protocol.data_received(data)
