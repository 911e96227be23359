"""The body of an answer as bytes, as they arrive, read past what the client library does for each packet.

Knows the private parts of this library, and nothing of what the bytes mean.
"""

import asyncio
import os
from socket import socket
from typing import Any, NamedTuple, Protocol

import aiohttp
from aiohttp.connector import Connection

FETCH_BYTES = 65_536
"""What is fetched at once from a connection that was paused; the rest comes with the next read."""


class Body(Protocol):
    def arrived(self) -> bytes:
        """What is there and was not read yet, also if the connection has broken since; perhaps nothing."""

    async def more(self) -> bytes:
        """What arrives next, where nothing is left of what had arrived; nothing at the end."""

    def at_end(self) -> bool:
        """Whether nothing is left and nothing more will arrive."""

    def pause(self) -> None:
        """Let what arrives wait for the next read, unseen, where that is possible."""


_PRIVATE = ("_read_nowait", "_low_water")


def body_of(response: aiohttp.ClientResponse) -> Body:
    """The direct one where nothing is decoded, and the library is as it was when this was written."""
    has_parts = all(hasattr(response.content, name) for name in _PRIVATE)  # those of an empty body lack them
    return DirectBody(response) if has_parts and "content-encoding" not in response.headers else PlainBody(response)


class PlainBody:
    """What aiohttp makes of it by itself."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._content = response.content

    def arrived(self) -> bytes:
        return b""

    async def more(self) -> bytes:
        return await self._content.readany()

    def at_end(self) -> bool:
        return self._content.at_eof()

    def pause(self) -> None:
        pass


class _Wire(NamedTuple):
    """A connection on whose socket lies what was sent, as it was sent."""

    transport: asyncio.Transport
    socket: socket
    protocol: asyncio.Protocol


class DirectBody:
    """What aiohttp makes of it, with its private parts.

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

    def at_end(self) -> bool:
        at_end: bool = self._content.at_eof()
        return at_end

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
