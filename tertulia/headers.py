"""What every answer says to browsers about itself: no sniffing, no frames, no referrers, no caches, and what may load.

Plain ASGI: only the start of a response is touched, nothing is buffered. Knows nothing of what is answered.
"""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HSTS = (b"strict-transport-security", b"max-age=31536000")
"""A year, and for this name only: others under it are not ours to decide about."""
UNLESS_SAID = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    # Is about requests without CORS; those with it are decided by the allowed origins.
    (b"cross-origin-resource-policy", b"same-origin"),
)
STARTS = ("http.response.start", "websocket.http.response.start")


class SecurityHeaders:
    """ASGI: the headers above on every response. The outermost layer, so that a server's error has them as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] in STARTS:
                # Only now, when the layers below have learned from a trusted proxy how the client came.
                secure = scope.get("scheme") in ("https", "wss")
                message["headers"] = _completed(message.get("headers", ()), secure)
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] in ("http", "websocket") else send)


def _completed(headers: Iterable[tuple[bytes, bytes]], secure: bool) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    said = {name for name, _ in headers}
    missing = [header for header in UNLESS_SAID if header[0] not in said]
    return [*headers, *missing, *([HSTS] if secure else [])]
