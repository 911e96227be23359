"""The HTTP and WebSocket faces of the schema. Protocol only: nothing here knows what is asked for."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import orjson
from strawberry.fastapi import GraphQLRouter
from strawberry.schema import BaseSchema
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)

from graph.context import Context

INIT_SECONDS = 10
OPERATIONS_PER_SOCKET = 20


class Router(GraphQLRouter[Context, None]):
    def encode_json(self, data: object) -> str:
        return orjson.dumps(data).decode()


def build_router(
    schema: BaseSchema, context: Callable[..., Awaitable[Context]], allowed_origins: tuple[str, ...]
) -> Router:
    return Router(
        schema,
        path="/graphql",
        graphql_ide=None,
        allow_queries_via_get=True,
        context_getter=context,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, MULTIPART_SUBSCRIPTION_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
        connection_init_wait_timeout=timedelta(seconds=INIT_SECONDS),
        max_subscriptions_per_connection=OPERATIONS_PER_SOCKET,
        allowed_origins=allowed_origins,
    )
