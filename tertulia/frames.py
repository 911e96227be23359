"""Text frames without detours: an ASGI extension by which the application writes one to the transport at once.

The way of ASGI is a message through every layer around the application, which none of them reads, and uvicorn's
`send`; each of them a coroutine per frame. Where a frame cannot be written at once (the client reads too slowly, the
socket is closing), that way is to be taken: it waits, or says what has become of the socket.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import OPEN

EXTENSION = "tertulia.text"
"""In the scope's `extensions`: {"write": write_text}."""


class DirectWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which offers the extension."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = {"write": self.write_text}

    def start_keepalive(self) -> None:
        """The handshake is over, and nobody reads its heads again: 3 KiB of every idle socket."""
        super().start_keepalive()
        self.request.headers.clear()  # the parser keeps the request itself
        del self.request, self.response

    def write_text(self, text: bytes) -> bool:
        """Send a frame with this text, in UTF-8. False, with nothing done, where it cannot be written now."""
        if not self.handshake_complete or self.conn.state is not OPEN or not self.writable.is_set():
            return False
        if self.transport.is_closing():
            return False
        self.transport.write(_head(len(text)) + text)
        return True


def _head(length: int) -> bytes:
    """Of a whole text message in one frame that is not masked (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
