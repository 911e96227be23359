"""The HTTP and WebSocket faces of the schema: what is answered, in which media type and with which status.

HTTP is answered here and not by Strawberry's view: that one keeps a response on the router, where concurrent requests
overwrite each other's, and answers errors as plain text. Sockets are Strawberry's, see `sockets.py`. Protocol only:
nothing here knows what is asked for.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Any, cast

import orjson
from graphql import GraphQLError
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.exceptions import ConnectionRejectionError
from strawberry.fastapi import GraphQLRouter
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from domain.errors import ErrorCode, RateLimited, Unavailable
from graph.callers import bearer, caller_of, token_in
from graph.context import Context
from graph.encoded import encoded
from graph.errors import INTERNAL, refusal
from graph.execution import MaskingSchema
from graph.frames import MULTIPART, SERVER_SENT_EVENTS, EventStream, Framing
from graph.requests import Asked, MediaType, Refused, accepted, asked
from graph.sockets import SocketHandler, TimedSocket

PATH = "/graphql"
JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
STATUS = {INTERNAL: 500, ErrorCode.UNAUTHENTICATED.value: 401, ErrorCode.UNAVAILABLE.value: 503}
READING = {OperationType.QUERY, OperationType.SUBSCRIPTION}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take of the server. The defaults are those of docs and settings."""

    body_bytes: int = 262_144
    """Of a request without `history` in its variables; with it the application's own limit on bodies rules."""
    init_seconds: float = 10
    operations_per_socket: int = 20
    send_seconds: float = 40
    heartbeat_seconds: float | None = None
    """Of streams over HTTP; None leaves it to each protocol."""


class Router(GraphQLRouter[Context, None]):
    websocket_adapter_class = TimedSocket
    graphql_transport_ws_handler_class = SocketHandler
    schema: MaskingSchema

    def __init__(
        self,
        schema: MaskingSchema,
        context: Callable[[HTTPConnection], Awaitable[Context]],
        limits: Limits,
        graphiql_path: str | None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(schema, context_getter=context, **options)
        self.routes = [route for route in self.routes if not isinstance(route, WebSocketRoute)]  # see DirectSockets
        self._context = context
        self.add_api_route(options["path"], _other_method, methods=["PUT", "PATCH", "DELETE", "HEAD"])
        self.limits = limits
        self.send_seconds = limits.send_seconds
        self._graphiql_path = graphiql_path
        self._streams: set[asyncio.Task[None]] = set()

    def end_streams(self) -> None:
        """Break off every stream over HTTP, as a stopping server does with sockets: their readers resume elsewhere."""
        for stream in self._streams:
            stream.cancel()

    def is_websocket_origin_allowed(self, _request: object, origin: str) -> bool:
        """To the letter, as CORS does it: browsers write every origin in one way."""
        return "*" in self.allowed_origins or origin in self.allowed_origins

    def encode_json(self, data: object) -> str:
        """Text: bytes would become binary frames, which graphql-ws does not read."""
        return orjson.dumps(data).decode()

    def decode_json(self, data: str | bytes) -> object:
        return orjson.loads(data)

    async def answer_post(self, request: Request) -> Response:
        """Answer a POST, as the routes of this router do, but without what FastAPI does for endpoints of any kind."""
        context = await self._context(request)
        context.request, context.response = request, Response()
        response: Response = await self.run(request, context)
        return response

    async def serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A socket from its beginning to its end, as an ASGI application."""
        socket = WebSocket(scope, receive, send)
        context = await self._context(socket)
        context.request = socket
        await super().run(socket, context, None)

    async def run(self, request: Any, context: Any = None, root_value: Any = None) -> Any:  # noqa: ANN401  of both kinds
        try:
            return await self._answer(request, context)
        except Refused as refused:
            return JSONResponse({"errors": [{"message": refused.message}]}, refused.status, refused.headers)
        except RateLimited as error:
            return _rate_limited(error, accepted(request.headers.get("accept", "")))
        except ClientDisconnect:
            return Response(status_code=400)

    async def on_ws_connect(self, context: Context) -> Any:  # noqa: ANN401  Strawberry's own
        """Raises Unavailable where a token cannot be checked just now."""
        assert context.request is not None
        payload = cast("dict[str, Any]", context.connection_params or {})
        token = token_in(payload) or bearer(context.request.headers.get("authorization"))
        context.caller = await caller_of(context.services, context.request, token)
        if isinstance(context.caller.refusal, Unavailable):
            raise context.caller.refusal
        if context.caller.identity is None:
            raise ConnectionRejectionError
        return await super().on_ws_connect(context)

    async def _answer(self, request: Request, context: Context) -> Response:
        wanted = _answer_type(accepted(request.headers.get("accept", "")))
        if self._graphiql_path and _is_a_person(request):
            return RedirectResponse(self._graphiql_path, status_code=303)
        identity, services = context.caller.identity, context.services
        await services.authenticator.admit(identity, context.caller.client.address)
        operation = await asked(request, self.limits.body_bytes, with_history=identity is not None)
        if isinstance(wanted, Framing):
            context.response = None  # its headers are sent before anything is executed
            results = await self._results(operation, context, _allowed(request, READING))
            watched = partial(services.watch.over, identity)
            limits = self.limits
            return EventStream(wanted, results, self._streams, watched, limits.send_seconds, limits.heartbeat_seconds)
        results = await self._results(operation, context, _allowed(request, {OperationType.QUERY}))
        async with aclosing(results):
            response = _response([result async for result in results][-1], wanted)
        response.raw_headers.extend(_cookies(context.response))
        return response

    async def _results(
        self, operation: Asked, context: Context, allowed: set[OperationType]
    ) -> AsyncGenerator[ExecutionResult, None]:
        results: Any = await self.schema.stream(
            operation.query,
            variable_values=operation.variables,
            context_value=context,
            operation_name=operation.operation_name,
            operation_extensions=operation.extensions,
            allowed_operation_types=allowed,
        )
        stream: AsyncGenerator[ExecutionResult, None] = results
        return stream


async def _other_method() -> Response:
    return JSONResponse({"errors": [{"message": "Use GET or POST."}]}, 405, {"allow": "GET, POST"})


def _allowed(request: Request, types: set[OperationType]) -> set[OperationType]:
    """A GET must be safe to follow and to repeat, so it never mutates."""
    return types | ({OperationType.MUTATION} if request.method == "POST" else set())


def _is_a_person(request: Request) -> bool:
    """A browser that opened the address itself."""
    accepts_pages = "text/html" in request.headers.get("accept", "")
    return accepts_pages and request.method == "GET" and "query" not in request.query_params


def _answer_type(accept: tuple[MediaType, ...]) -> str | Framing:
    """The first that we have; plain JSON where there is none, which the specification allows."""
    for wanted in accept:
        if wanted.name in (JSON, GRAPHQL_JSON):
            return wanted.name
        if wanted.name == "text/event-stream":
            return SERVER_SENT_EVENTS
        if wanted.name == "multipart/mixed" and wanted.parameters.get("subscriptionspec", "").startswith("1."):
            return MULTIPART
        if wanted.name in ("*/*", "application/*"):
            return JSON
    return JSON


def _cookies(response: Response | None) -> list[tuple[bytes, bytes]]:
    """What resolvers have put into the response that the framework offers them."""
    return [] if response is None else [header for header in response.raw_headers if header[0] == b"set-cookie"]


def _response(result: ExecutionResult, media_type: str) -> Response:
    """One result. A request that was refused is 200 in application/json, which old clients expect, and 4xx or 5xx in
    application/graphql-response+json, as GraphQL over HTTP has it."""
    status = 200
    if isinstance(result, PreExecutionError) and result.errors:
        status = _status_of_refusal(result.errors[0])
    if status == 400 and media_type == JSON:
        status = 200
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return Response(encoded(result), status, headers, media_type=f"{media_type}; charset=utf-8")


def _rate_limited(error: RateLimited, accept: tuple[MediaType, ...]) -> Response:
    """In GraphQL's own media type where it is accepted: what has another one, Apollo reads no errors from."""
    media_type = GRAPHQL_JSON if any(wanted.name == GRAPHQL_JSON for wanted in accept) else JSON
    wait = {"retry-after": str(ceil(error.retry_after))}
    return JSONResponse({"errors": [refusal(error).formatted]}, 429, wait, f"{media_type}; charset=utf-8")


def _status_of_refusal(error: GraphQLError) -> int:
    """Raises Refused where HTTP has its own word for it."""
    original = error.original_error
    if isinstance(original, InvalidOperationTypeError):
        if original.operation_type is OperationType.MUTATION:
            raise Refused(405, "A mutation needs POST.", {"allow": "POST"})
        raise Refused(406, "A subscription needs `accept: text/event-stream`, Apollo's multipart, or a WebSocket.")
    return STATUS.get(str((error.extensions or {}).get("code")), 400)


def build_router(
    schema: MaskingSchema,
    context: Callable[[HTTPConnection], Awaitable[Context]],
    allowed_origins: tuple[str, ...] = (),
    limits: Limits | None = None,
    graphiql_path: str | None = None,
) -> Router:
    """The router for requests to /graphql; sockets are its `serve_socket`'s. `context` makes a connection's context."""
    limits = limits or Limits()
    return Router(
        schema,
        context,
        limits,
        graphiql_path,
        path=PATH,
        graphql_ide=None,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,),
        connection_init_wait_timeout=timedelta(seconds=limits.init_seconds),
        max_subscriptions_per_connection=limits.operations_per_socket,
        allowed_origins=allowed_origins,
    )
