"""How a socket begins: the handshake of RFC 6455 where there is nothing unusual about it, read by HTTP's own parser.

uvicorn writes the head of such a request anew for `websockets` to parse it once more, and to find that all is well;
half of what a socket costs to open. Whatever is not as browsers and libraries send it goes that way still, so that
who is refused, and how, is for `websockets` alone to say. Knows nothing of what sockets are for.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from typing import Any

from tertulia.heads import BoundedHttpProtocol

Header = tuple[bytes, bytes]
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""
USUAL = {
    b"upgrade": re.compile(rb"websocket", re.IGNORECASE),
    b"connection": re.compile(rb"(keep-alive, ?)?upgrade", re.IGNORECASE),
    b"sec-websocket-version": re.compile(rb"13"),
    b"sec-websocket-key": re.compile(rb"[A-Za-z0-9+/]{22}=="),
}
"""What a handshake has, each of them once."""
USUAL_PROTOCOLS = re.compile(rb"[A-Za-z0-9._-]+(, ?[A-Za-z0-9._-]+)*")
ONCE = {*USUAL, b"origin", b"sec-websocket-protocol"}
UNUSUAL = {b"content-length", b"transfer-encoding"}
USUAL_BYTES = 8_000
USUAL_HEADERS = 100
"""`websockets` has its own limits, above these."""


class DirectHttpProtocol(BoundedHttpProtocol):
    """Hands usual handshakes to a DirectWebSocketProtocol as they are."""

    def handle_websocket_upgrade(self) -> None:
        key = usual_key(self.headers)
        usual = self.scope["method"] == "GET" and self.scope["http_version"] == "1.1" and self.url.isascii()
        if key is None or not usual or len(self.url) > USUAL_BYTES or self.ws_protocol_class is None:
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        make: Any = self.ws_protocol_class
        protocol = make(config=self.config, server_state=self.server_state, app_state=self.app_state)
        protocol.connection_made(self.transport)
        protocol.shake_hands(self.url, self.headers, key)
        self.transport.set_protocol(protocol)


def usual_key(headers: Iterable[Header]) -> bytes | None:
    """The key of a handshake that is valid and usual; None where that takes a closer look. Names are in lower case."""
    seen: dict[bytes, bytes] = {}
    length = number = 0
    for name, value in headers:
        if name in UNUSUAL or (name in ONCE and name in seen) or value.endswith((b" ", b"\t")):
            return None
        seen[name] = value
        length += len(name) + len(value)
        number += 1
    if length > USUAL_BYTES or number > USUAL_HEADERS:
        return None
    if not all(pattern.fullmatch(seen.get(name, b"")) for name, pattern in USUAL.items()):
        return None
    protocols = seen.get(b"sec-websocket-protocol")
    if protocols is not None and not USUAL_PROTOCOLS.fullmatch(protocols):
        return None
    return seen[b"sec-websocket-key"]


def acceptance(key: bytes, headers: Iterable[Header]) -> bytes:
    """The answer to a handshake with this key (RFC 6455, 4.2.2), and with further headers."""
    accept = b64encode(sha1(key + GUID, usedforsecurity=False).digest())
    further = b"".join(b"%b: %b\r\n" % header for header in headers)
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, further)
    )
