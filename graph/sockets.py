"""graphql-transport-ws, the protocol of the graphql-ws package, over Strawberry's handler: what that leaves open.

Close codes decide what a client does. graphql-ws connects again after 1001, 1012, 1013, 4403 and 4408, and gives up
after 1011, 4400, 4401, 4409, 4429 and 4500; so a socket is closed with 1013 ("try again later") when a subscription
fails in mid-stream, because an `error` message would end it for good and a `complete` would make it look whole. The
other operations of the socket resume with it. uvicorn closes with 1012 when the server stops, and with 1009 after a
frame that is too large. Nothing here knows what is asked for.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, suppress
from typing import Any

import orjson
from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import WebSocketDisconnected
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler, Operation
from strawberry.subscriptions.protocols.graphql_transport_ws.types import ConnectionInitMessage, Message
from strawberry.types.execution import PreExecutionError

from domain.errors import RateLimited, StorageError, Unauthenticated, Unavailable
from graph.context import Context
from graph.encoded import encoded
from graph.errors import refusal
from graph.execution import Interrupted, MaskingSchema
from graph.lanes import LANE, Lane

INVALID = 4400
FORBIDDEN = 4403
TOO_LATE = 4408
TRY_AGAIN = 1013
BROKEN = 1011
DIRECT = "tertulia.text"
"""An ASGI extension of our server's (see `tertulia/frames.py`): `write` sends a text frame at once, or says False."""
REASON_BYTES = 123
"""What fits into a close frame (RFC 6455, 5.5); more is a protocol error of ours."""


class TimedSocket(ASGIWebSocketAdapter):
    """A socket on which no send takes longer than `send_seconds`.

    A client that stops reading would otherwise hold its operations for ever: pings do not help, its system answers
    those. There is no room for a close frame then, so the handler just leaves the connection to the server.
    """

    def __init__(self, view: Any, request: WebSocket, response: WebSocket) -> None:  # noqa: ANN401  any view
        super().__init__(view, request, response)
        self._send_seconds: float = view.send_seconds
        self._served = asyncio.timeout(None)
        self.write: Callable[[bytes], bool] | None = request.scope.get("extensions", {}).get(DIRECT, {}).get("write")

    async def serve(self, handler: "SocketHandler") -> None:
        """Run the handler until the client leaves, the socket is closed or a send stalls."""
        with suppress(TimeoutError):
            async with self._served:
                await handler.converse()

    async def send_json(self, message: Mapping[str, object]) -> None:
        await self.send_text(orjson.dumps(message))

    async def send_text(self, text: bytes) -> None:
        """Raises WebSocketDisconnected."""
        if self.write is None or not self.write(text):
            await self._send_in_time(text.decode())

    async def _send_in_time(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._send_seconds):
                await self.ws.send_text(text)
        except TimeoutError as error:
            self._served.reschedule(asyncio.get_running_loop().time())
            raise WebSocketDisconnected from error
        except (WebSocketDisconnect, RuntimeError) as error:  # by the client, or by us in the meantime
            raise WebSocketDisconnected from error

    async def close(self, code: int, reason: str) -> None:
        shortened = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        with suppress(RuntimeError, TimeoutError, OSError):
            async with asyncio.timeout(self._send_seconds):
                await super().close(code, shortened)


class DirectSockets:
    """ASGI: sockets at `path` go straight to `serve`, past the layers that are there for requests.

    Each of those would stay on the socket's stack, with what it holds, for as long as the socket lives.
    """

    def __init__(self, app: ASGIApp, path: str, serve: ASGIApp) -> None:
        self._app = app
        self._path = path
        self._serve = serve

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        wanted = scope["type"] == "websocket" and get_route_path(scope) == self._path
        return (self._serve if wanted else self._app)(scope, receive, send)


class SocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    websocket: TimedSocket
    schema: MaskingSchema

    async def handle(self) -> None:
        await self.websocket.serve(self)

    async def converse(self) -> None:
        self._watched: AbstractContextManager[None] | None = None
        try:
            await super().handle()
        finally:
            self._patience.cancel()
            if self._watched is not None:
                self._watched.__exit__(None, None, None)

    def on_request_accepted(self) -> None:
        """A timer where Strawberry has a task for each socket."""
        patience = self.connection_init_wait_timeout.total_seconds()
        self._patience = asyncio.get_running_loop().call_later(patience, self._give_up)

    def _give_up(self) -> None:
        self.connection_timed_out = True
        self._closing = asyncio.create_task(self.websocket.close(TOO_LATE, "Connection initialisation timeout"))

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        """Who does not say who they are gets no further; whose right ends meanwhile goes no further."""
        self._patience.cancel()
        try:
            await super().handle_connection_init(message)
        except Unavailable:
            await self.websocket.close(TRY_AGAIN, "Try again")
        if self.connection_acknowledged:
            self._watched = self.context.services.watch.over(self.context.identity, self._forbid)
            self._watched.__enter__()

    def _forbid(self) -> None:
        self._closing = asyncio.create_task(self.websocket.close(FORBIDDEN, "The token holds no longer"))

    async def handle_message(self, message: Message) -> None:
        if fault := fault_of(message):
            await self.handle_invalid_message(fault)
            return
        if message["type"] == "connection_init" and message.get("payload") is None:
            message = {"type": "connection_init"}  # null is allowed by the protocol, but not by Strawberry
        await super().handle_message(message)

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        opening = b'{"id":%b,"type":"next","payload":' % orjson.dumps(operation.id)
        if self.websocket.write is not None:
            LANE.set(Lane(opening, self.websocket.write))
        try:
            await self.context.authorise()
            results = await self.schema.stream(
                operation.query,
                variable_values=operation.variables,
                context_value=self.context,
                operation_name=operation.operation_name,
            )
            async with aclosing(results):
                await self._deliver(operation, opening, results)
        except WebSocketDisconnected:
            pass
        except Unauthenticated:
            await self.websocket.close(FORBIDDEN, "The token holds no longer")
        except RateLimited as error:
            await operation.send_initial_errors([refusal(error)])
        except (Unavailable, StorageError):
            await self.websocket.close(TRY_AGAIN, "Try again")
        except Exception as error:
            self.schema.unexpected(secrets.token_hex(8), error)
            await self.websocket.close(BROKEN, "Internal error")
        finally:
            if self.operations.get(operation.id) is operation:
                del self.operations[operation.id]

    async def _deliver(
        self, operation: Operation[Context, None], opening: bytes, results: AsyncGenerator[Any, None]
    ) -> None:
        async for result in results:
            if isinstance(result, Interrupted):
                await self.websocket.close(TRY_AGAIN, "Try again")
                return
            if isinstance(result, PreExecutionError):
                await operation.send_initial_errors(result.errors or [])
                return
            await self.websocket.send_text(opening + encoded(result) + b"}")
        await operation.send_operation_message({"id": operation.id, "type": "complete"})


def fault_of(message: object) -> str | None:
    """What is wrong with the shape of a message; Strawberry checks no more than the presence of keys."""
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return "A message is an object with a type"
    kind = message["type"]
    if kind in ("subscribe", "complete") and not (isinstance(message.get("id"), str) and message["id"]):
        return f"A {kind} message has an id"
    if kind == "subscribe":
        return _fault_of_operation(message.get("payload"))
    if kind in ("ping", "pong") and not isinstance(message.get("payload"), dict | None):
        return f"The payload of a {kind} message is an object"
    return None


def _fault_of_operation(payload: object) -> str | None:
    if not isinstance(payload, dict) or not isinstance(payload.get("query"), str):
        return "The payload of a subscribe message has a query"
    if not isinstance(payload.get("operationName"), str | None):
        return "An operationName is a string"
    if not all(isinstance(payload.get(name), dict | None) for name in ("variables", "extensions")):
        return "Variables and extensions are objects"
    return None
