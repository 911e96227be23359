"""Who is asking over a connection: the bearer token in a header or in `connection_init`, and the client's address.

Knows how tokens are carried, not what they are.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection

from domain.accounts import Client
from domain.errors import Unauthenticated, Unavailable
from graph.addresses import client_key
from graph.context import Caller, Services

SCHEME = "bearer "


def bearer(header: object) -> str | None:
    """The token of an Authorization header (RFC 6750); None for anything else."""
    if not isinstance(header, str) or header[: len(SCHEME)].lower() != SCHEME:
        return None
    return header[len(SCHEME) :].strip() or None


def token_in(payload: Mapping[str, Any]) -> str | None:
    """The token in the payload of `connection_init`: under Authorization, in any case, also inside `headers`."""
    headers = payload.get("headers")
    for place in (payload, headers if isinstance(headers, dict) else {}):
        for name, value in place.items():
            if name.lower() == "authorization" and (token := bearer(value)) is not None:
                return token
    return None


def client_of(connection: HTTPConnection) -> Client:
    return Client(client_key(connection), connection.headers.get("user-agent"))


async def caller_of(services: Services, connection: HTTPConnection, token: str | None) -> Caller:
    """Who shows the token; nobody, with the reason, when it does not hold."""
    client = client_of(connection)
    try:
        return Caller(await services.authenticator.identify(token), client)
    except (Unauthenticated, Unavailable) as refusal:
        return Caller(None, client, refusal, stranger=token is None)
