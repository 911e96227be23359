"""What the server answers beside GraphQL: a first page, health, metrics and GraphiQL; and the limits on bodies.

Everything is plain ASGI: nothing here buffers a response.
"""

import asyncio
import math
import secrets
from importlib.resources import files
from pathlib import Path
from typing import Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.errors import StorageError, Unavailable
from persistence import schema
from tertulia.services import Running

CSP = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; worker-src 'self'; "
    "font-src 'self' data:; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GRAPHIQL = Path(str(files("tertulia"))) / "static" / "graphiql"
READY_SECONDS = 2
"""A database that does not answer within this time counts as unreachable."""
FIRST_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tertulia</title>
<style>body{{font:16px/1.6 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem}}
code{{background:#8882;padding:.1em .3em;border-radius:4px}}</style>
<h1>Tertulia {version}</h1>
<p>A conversation server for language models, as one GraphQL API.</p>
<ul>
<li><a href="/graphiql">GraphiQL</a>: send a message and watch the reply arrive</li>
<li><code>/graphql</code>: the API, by HTTP, WebSocket (graphql-transport-ws), multipart and server-sent events</li>
<li><a href="/healthz">healthz</a>, <a href="/readyz">readyz</a>, <a href="/metrics">metrics</a></li>
</ul></html>
"""


def running(request: Request) -> Running:
    found: Running = request.app.state.running
    return found


router = APIRouter()


@router.get("/", include_in_schema=False)
async def first_page(request: Request) -> Response:
    version = running(request).services.facts.version
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(FIRST_PAGE.format(version=version), headers={"content-security-policy": CSP})
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
    server = running(request)
    try:
        async with server.storage.read() as work:
            server.telemetry.queued.set(await work.replies.queued())
    except (Unavailable, StorageError):
        server.telemetry.queued.set(math.nan)
    return Response(generate_latest(server.telemetry.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/graphiql", include_in_schema=False)
async def graphiql() -> Response:
    page = GRAPHIQL / "index.html"
    if not page.exists():
        return PlainTextResponse("GraphiQL is not built; `make graphiql` builds it (npm is needed).", status_code=404)
    return HTMLResponse(page.read_text(), headers={"content-security-policy": CSP})


def graphiql_assets() -> StaticFiles:
    return StaticFiles(directory=GRAPHIQL, check_dir=False)


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
