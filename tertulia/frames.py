"""Sockets without detours: how handshakes are answered, text frames read, and written by an ASGI extension.

The way of ASGI is a message through every layer around the application, which none of them reads, and uvicorn's
`send`; each of them a coroutine per frame. Where a frame cannot be written at once (the client reads too slowly, the
socket is closing), that way is to be taken: it waits, or says what has become of the socket. `websockets` has a parser
for every kind of frame in pieces of any size; what clients send is one text, whole.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import apply_mask  # type: ignore[attr-defined]  # in C where that is installed
from websockets.http11 import Request
from websockets.protocol import OPEN, Protocol

from tertulia.handshakes import Header, acceptance

EXTENSION = "tertulia.text"
"""In the scope's `extensions`: {"write": write_text}."""
FINAL = 0x80
MASKED = 0x80
TEXT = 0x81
"""The first byte of a text in one frame (RFC 6455, 5.2)."""


class DirectWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which offers the extension."""

    _key: bytes | None = None
    _in_step = True
    """Whether all that came so far were whole messages, so that what comes next is the beginning of one."""

    def shake_hands(self, address: bytes, headers: Sequence[Header], key: bytes) -> None:
        """Begin as `handle_connect` does, with a usual handshake that has been read."""
        self._key = key
        self.handshake_initiated = True
        self.conn.parser = Protocol.parse(self.conn)  # of frames, in place of one that waits for the head
        next(self.conn.parser)
        path, _, query = address.partition(b"?")
        root = self.root_path
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": root,
            "path": root + unquote(path.decode()),
            "raw_path": root.encode() + path,
            "query_string": query,
            "headers": list(headers),
            "subprotocols": [
                token.strip()
                for name, value in headers
                if name == b"sec-websocket-protocol"
                for token in value.decode().split(",")
            ],
            "state": self.app_state.copy(),
            "extensions": self._extensions(),
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            self.scope["extensions"] = self._extensions()

    def _extensions(self) -> dict[str, dict[object, object]]:
        return {"websocket.http.response": {}, EXTENSION: {"write": self.write_text}}

    async def send(self, message: Any) -> None:  # noqa: ANN401  ASGI's
        if self._key is None or message["type"] != "websocket.accept" or self.handshake_complete:
            await super().send(message)
            return
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        headers = [*self.default_headers, *message.get("headers", ())]
        if protocol := message.get("subprotocol"):
            headers.append((b"Sec-WebSocket-Protocol", protocol.encode()))
        if not self.transport.is_closing():
            self.handshake_complete = True
            self.conn.state = OPEN
            self.transport.write(acceptance(self._key, headers))
            self.start_keepalive()

    def start_keepalive(self) -> None:
        """The handshake is over, and nobody reads its heads again: 3 KiB of every idle socket."""
        super().start_keepalive()
        if self._key is None:
            self.request.headers.clear()  # the parser keeps the request itself
            del self.request, self.response

    def data_received(self, data: bytes) -> None:
        if self._in_step:
            head = head_size(data)
            self._in_step = head is not None
            is_text = head is not None and data[0] == TEXT and self.conn.state is OPEN
            if head is not None and is_text and len(data) - head <= self.config.ws_max_size:
                self._text_received(apply_mask(data[head:], data[head - 4 : head]))
                return
        super().data_received(data)

    def _text_received(self, text: bytes) -> None:
        self.curr_msg_data_type = "text"
        self.frames = [text]
        self.send_receive_event_to_app()

    def write_text(self, text: bytes) -> bool:
        """Send a frame with this text, in UTF-8. False, with nothing done, where it cannot be written now."""
        if not self.handshake_complete or self.conn.state is not OPEN or not self.writable.is_set():
            return False
        if self.transport.is_closing():
            return False
        self.transport.write(_head(len(text)) + text)
        return True


def head_size(data: bytes) -> int | None:
    """With its mask, of the frame that `data` is; None where that is more or less than one, or a part of a message."""
    if len(data) < 6 or not data[0] & FINAL or not data[1] & MASKED:
        return None
    length, size = data[1] & 0x7F, 6
    if length > 125:
        size = 8 if length == 126 else 14
        length = int.from_bytes(data[2 : size - 4], "big")
    return size if len(data) == size + length else None


def _head(length: int) -> bytes:
    """Of a whole text message in one frame that is not masked (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((TEXT, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
