"""What the server answers beside GraphQL: a first page, health, metrics and GraphiQL; and the limits on bodies.

Everything is plain ASGI: nothing here buffers a response.
"""

import asyncio
import math
import secrets
from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import PathLike
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.errors import StorageError, Unavailable
from graph.errors import INTERNAL
from persistence import schema
from tertulia.services import Running

GRAPHIQL = Path(str(files("tertulia"))) / "static" / "graphiql"
READY_SECONDS = 2
"""A database that does not answer within this time counts as unreachable."""
STYLE = (
    "body{font:16px/1.6 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em;border-radius:4px}"
)
FIRST_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tertulia</title>
<style>{style}</style>
<h1>Tertulia {version}</h1>
<p>A conversation server for language models, as one GraphQL API.</p>
<ul>
<li><a href="/graphiql">GraphiQL</a>: send a message and watch the reply arrive</li>
<li><code>/graphql</code>: the API, by HTTP, WebSocket (graphql-transport-ws), multipart and server-sent events</li>
<li><a href="/healthz">healthz</a>, <a href="/readyz">readyz</a>, <a href="/metrics">metrics</a></li>
</ul></html>
"""
NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
FIRST_PAGE_CSP = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; {NOTHING_ELSE}"
)
GRAPHIQL_CSP = (
    # GraphiQL's editor writes styles into the page while it runs, without a nonce; scripts get no such freedom.
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; worker-src 'self'; "
    f"font-src 'self' data:; img-src 'self' data:; {NOTHING_ELSE}"
)


def running(request: Request) -> Running:
    found: Running = request.app.state.running
    return found


router = APIRouter()


@router.get("/", include_in_schema=False)
async def first_page(request: Request) -> Response:
    version = running(request).services.facts.version
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(
            FIRST_PAGE.format(version=version, style=STYLE), headers={"content-security-policy": FIRST_PAGE_CSP}
        )
    links = {name: f"/{name}" for name in ("graphql", "graphiql", "healthz", "readyz", "metrics")}
    return JSONResponse({"name": "tertulia", "version": version, "links": links})


@router.get("/healthz", include_in_schema=False)
async def healthz(request: Request) -> Response:
    """The process lives, its event loop turns, and its worker works: what is not so is cured by a new process."""
    failed = running(request).worker.failure.is_set()
    return JSONResponse({"status": "failed" if failed else "ok"}, status_code=503 if failed else 200)


@router.get("/readyz", include_in_schema=False)
async def readyz(request: Request) -> Response:
    """Whether to send this process traffic: each part by name, "ok" or what is wrong."""
    checks = await readiness(running(request))
    ready = all(value == "ok" for value in checks.values())
    return JSONResponse({"ready": ready, "checks": checks}, status_code=200 if ready else 503)


async def readiness(server: Running) -> dict[str, str]:
    checks = {"database": "ok", "migrations": "ok", "model": "ok", "worker": "ok", "draining": "ok"}
    try:
        async with asyncio.timeout(READY_SECONDS):
            await server.storage.ping()
            if not schema.is_served(await schema.current_revision(server.database)):
                checks["migrations"] = "run `tertulia migrate`"
    except (Unavailable, StorageError, TimeoutError):
        checks["database"] = checks["migrations"] = "unreachable"
    if not server.model.models():
        checks["model"] = "none"
    if server.worker.failure.is_set():
        checks["worker"] = "failed"
    if server.worker.draining:
        checks["draining"] = "shutting down"
    return checks


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """For whoever knows the token; without one for everybody who reaches a server that listens on loopback."""
    server = running(request)
    token = server.settings.metrics_token
    if token is None and not server.settings.loopback_only:
        return PlainTextResponse("Metrics need TERTULIA_METRICS_TOKEN.\n", 404)
    if token is not None and not _bears(request, token.get_secret_value()):
        return PlainTextResponse("Metrics need a bearer token.\n", 401, {"www-authenticate": "Bearer"})
    try:
        async with server.storage.read() as work:
            server.telemetry.queued.set(await work.replies.queued())
    except (Unavailable, StorageError):
        server.telemetry.queued.set(math.nan)
    return Response(generate_latest(server.telemetry.registry), media_type=CONTENT_TYPE_LATEST)


def _bears(request: Request, token: str) -> bool:
    """Takes as long for any wrong token."""
    given = request.headers.get("authorization", "").encode()
    return secrets.compare_digest(given, f"Bearer {token}".encode())


@router.get("/graphiql", include_in_schema=False)
async def graphiql() -> Response:
    page = GRAPHIQL / "index.html"
    if not page.exists():
        return PlainTextResponse("GraphiQL is not built; `make graphiql` builds it (npm is needed).", status_code=404)
    return HTMLResponse(page.read_text(), headers={"content-security-policy": GRAPHIQL_CSP})


class GraphiQLFiles(StaticFiles):
    """The built files; those in `assets` have a hash of their content in their names, so they may be kept for ever."""

    def __init__(self) -> None:
        super().__init__(directory=GRAPHIQL, check_dir=False)

    def file_response(self, full_path: PathLike, *rest: Any, **options: Any) -> Response:  # noqa: ANN401  as it was
        response = super().file_response(full_path, *rest, **options)
        hashed = Path(full_path).parent.name == "assets"
        # A worker obeys the policy of its own file, not that of the page.
        response.headers["content-security-policy"] = GRAPHIQL_CSP
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response


async def crashed(_request: Request, _error: Exception) -> Response:
    """What went wrong goes to the log, under the id of the request."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    message = f"Something went wrong in the server; the operator finds it in the log under {request_id}."
    extensions = {"code": INTERNAL, "correlationId": request_id}
    return JSONResponse({"errors": [{"message": message, "extensions": extensions}]}, status_code=500)


class ReadableStart:
    """ASGI: a start that failed says why in the sentence that is kept in `app.state.failure`, not in a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def readable(message: Message) -> None:
            failure = getattr(scope["app"].state, "failure", None)
            if message["type"] == "lifespan.startup.failed" and failure is not None:
                message["message"] = failure
            await send(message)

        await self._app(scope, receive, readable if scope["type"] == "lifespan" else send)


NAME_CHARACTERS = 253
"""Of a domain name at most: longer ones are not remembered."""


class KnownHosts(TrustedHostMiddleware):
    """ASGI: a name that this server is not called by gets 400.

    An IP address is no name: health checks come by it, and no web page of others can (DNS rebinding needs a name).
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and _names_an_address(scope):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _names_an_address(scope: Scope) -> bool:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return (_is_an_address if len(host) <= NAME_CHARACTERS else _is_an_address.__wrapped__)(host)


@lru_cache(1_024)
def _is_an_address(host: str) -> bool:
    try:
        return not ip_address(urlsplit(f"//{host}").hostname or "").is_unspecified
    except ValueError:
        return False


class RequestLimits:
    """ASGI: bodies above `max_bytes` get 413; every request gets an id, which its log lines carry."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        request_id = secrets.token_hex(8)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._http(scope, receive, send, request_id)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise BodyTooLarge
            return message

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, counted, named)
        except BodyTooLarge:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"The body is larger than {self._max_bytes} bytes."
        response: Any = JSONResponse({"errors": [{"message": message}]}, status_code=413)
        await response(scope, receive, send)


class BodyTooLarge(Exception):
    """The client sent more than it may, without having said so."""
