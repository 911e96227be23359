"""How long the head of a request may be: its address and its headers, which are kept and read before anything else.

Twice, because each catches what the other cannot: the protocol ends a head that does not end, wherever `tertulia serve`
runs uvicorn; the ASGI layer refuses one that is too long, under any server. Knows nothing of what is asked for.
"""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 16_384
MAX_ADDRESS_BYTES = 16_384
MAX_COOKIE_BYTES = 4_096
"""FastAPI reads the cookies of every request, in a time with the square of their length."""
MAX_UNREAD_BYTES = 65_536
"""Of a head, or of what follows a body, while neither is complete; so that a longer one is not kept."""
TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 22\r\nconnection: close\r\n\r\nThe head is too long.\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's own, which has no limit: its parser joins a header until it ends."""

    _unread = 0

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_UNREAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(TOO_LONG)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()


class HeadLimits:
    """ASGI: headers that are too long together get 431, an address 414, also where a socket is asked for.

    Cookies that are too long are left out: they may be of other applications under the same name.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] in ("http", "websocket") else None
        await (refusal or self._app)(scope, receive, send)


def _refusal(scope: Scope) -> JSONResponse | None:
    """Starlette's responses refuse sockets as well. Leaves cookies out."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return _too_long("headers", MAX_HEADER_BYTES, 431)
    if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > MAX_ADDRESS_BYTES:
        return _too_long("address", MAX_ADDRESS_BYTES, 414)
    if sum(len(value) for name, value in scope["headers"] if name == b"cookie") > MAX_COOKIE_BYTES:
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]
    return None


def _too_long(what: str, most: int, status: int) -> JSONResponse:
    return JSONResponse({"errors": [{"message": f"The {what}: more than {most:,} bytes."}]}, status)
