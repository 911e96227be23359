"""The ASGI application: `create_app` puts it together, `uvicorn tertulia.main:app` runs it with settings as found."""

import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from graph.callers import bearer, caller_of
from graph.context import Context, Services
from graph.schema import build_schema
from graph.sockets import DirectSockets
from graph.transport import PATH, Limits, build_router
from tertulia import http
from tertulia.headers import SecurityHeaders
from tertulia.heads import HeadLimits
from tertulia.safety import check_safety
from tertulia.services import open_services
from tertulia.settings import Settings, SettingsError, load_settings
from tertulia.telemetry import configure_logging

log = structlog.get_logger("tertulia")


class Api(FastAPI):
    sockets: ASGIApp

    def build_middleware_stack(self) -> ASGIApp:
        return SecurityHeaders(HeadLimits(DirectSockets(super().build_middleware_stack(), PATH, self.sockets)))


def create_app(settings: Settings | None = None, limits: Limits | None = None, **overrides: Any) -> FastAPI:  # noqa: ANN401
    """A Tertulia server as an ASGI application. `overrides` are those of `open_services`."""
    chosen = settings or load_settings()
    check_safety(chosen)
    limits = limits or Limits(body_bytes=chosen.max_body_bytes)
    configure_logging(chosen)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(open_services(chosen, **overrides))
            except SettingsError as error:
                app.state.failure = str(error)
                raise
            app.state.running = running
            schema.unexpected = running.telemetry.unexpected
            log.info(
                "started",
                version=running.services.facts.version,
                models=[m.name for m in running.model.models()],
                worker=running.worker.owner if chosen.worker else None,
            )
            yield
            log.info("stopping")

    async def context(connection: HTTPConnection) -> Context:
        services: Services = connection.app.state.running.services
        return Context(services, await caller_of(services, connection, bearer(connection.headers.get("authorization"))))

    schema = build_schema()
    graphiql_path = "/graphiql" if chosen.graphiql else None
    router = build_router(schema, context, chosen.allowed_origins, limits, graphiql_path)
    app = Api(
        title="Tertulia",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={Exception: http.crashed},
        middleware=_middleware(chosen),
    )
    app.sockets = _around(router.serve_socket, _of_connections(chosen))
    app.add_route(PATH, router.answer_post, methods=["POST"])
    app.include_router(http.router)
    if chosen.graphiql:
        app.mount("/graphiql", http.GraphiQLFiles())
    app.include_router(router)
    app.state.router = router
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    """From the outside in."""
    proxies, hosts, limits = _of_connections(settings)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.allowed_origins),
        allow_credentials=settings.refresh_cookie,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    return [Middleware(http.ReadableStart), proxies, hosts, cors, limits]


def _of_connections(settings: Settings) -> tuple[Middleware, Middleware, Middleware]:
    """What concerns sockets too."""
    return (
        Middleware(ProxyHeadersMiddleware, trusted_hosts=settings.proxy_networks),
        Middleware(http.KnownHosts, allowed_hosts=settings.hosts, www_redirect=False),
        Middleware(http.RequestLimits, max_bytes=settings.max_history_body_bytes),
    )


def _around(app: ASGIApp, layers: Iterable[Middleware]) -> ASGIApp:
    for layer in reversed(tuple(layers)):
        app = layer.cls(app, *layer.args, **layer.kwargs)
    return app


def __getattr__(name: str) -> Any:  # noqa: ANN401  PEP 562
    """`app` is made when somebody asks for it, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    try:
        return create_app()
    except SettingsError as error:
        sys.exit(f"tertulia: {error}")
