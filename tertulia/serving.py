"""How uvicorn is to run the application: the one place with its settings, for the command line and for tests."""

import gc
import socket

import uvicorn
from starlette.types import ASGIApp

from tertulia.frames import DirectWebSocketProtocol
from tertulia.heads import BoundedHttpProtocol

MAX_FRAME_BYTES = 262_144
PING_SECONDS = 25.0
PONG_SECONDS = 300.0
"""uvicorn closes a socket whose pong is late with 1011, which clients never retry; so the pong may be very late."""
UNREAD_SECONDS = 60
COLLECTOR_THRESHOLDS = 5_000, 10, 30
"""See `gc.set_threshold`. A full look comes after 1.5 million objects more, about 5,000 sockets, at the earliest."""
GRACEFUL_SECONDS = 5
"""Without a limit one stalled reader keeps a stopping process alive for ever."""


def drop_unread_connections(listener: socket.socket) -> None:
    """Let the system end connections whose other side takes nothing for so long; they inherit it from the listener.

    The time limit on sends frees what such a reader holds of ours, but closing waits until everything is sent.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)


def settle_memory() -> None:
    """Once everything is loaded: have the garbage collector pass by what stays for ever, and look less often.

    By its defaults it looked through all objects 13 times, up to 0.7 s each, while 3,000 sockets were opened.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="auto",
        http=BoundedHttpProtocol,
        ws=DirectWebSocketProtocol,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # it would believe whoever connects from this machine; see TERTULIA_TRUSTED_PROXIES
    )
