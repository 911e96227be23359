"""Reading a GraphQL request from HTTP: media types, the body and its size, the shape of its parameters.

After GraphQL over HTTP (graphql.github.io/graphql-over-http). Whatever is wrong here is wrong with the HTTP request
and gets a status of its own, whatever the client accepts. Nothing here knows the schema, or executes anything.
"""

from dataclasses import dataclass, field
from email.message import Message
from functools import lru_cache
from typing import Any

import orjson
from starlette.requests import Request

CACHED_HEADERS = 256
WITH_HISTORY = ("createConversation", "sendMessage")
MAX_MEDIA_TYPE = 256
MAX_ACCEPT = 2_048
"""Characters: reading a media type takes time with the square of its length."""


class Refused(Exception):
    """The request cannot be answered as it stands; the message is safe to show."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Asked:
    """One operation, as a client asks for it."""

    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    extensions: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MediaType:
    name: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        try:
            return float(self.parameters.get("q", "1"))
        except ValueError:
            return 0


async def asked(request: Request, max_bytes: int, *, with_history: bool) -> Asked:
    """The operation in a GET or POST request, which may be longer by its history, where that is allowed.

    Raises Refused.
    """
    if request.method == "GET":
        return _checked(_from_address(request))
    body = await _body(request, None if with_history else max_bytes)
    parameters = _object(body)
    if len(body) > max_bytes and not _is_long_by_history(parameters, max_bytes):
        raise _too_long(max_bytes)
    return _checked(parameters)


def _too_long(max_bytes: int) -> Refused:
    message = f"The body is larger than {max_bytes} bytes, which only `history` in the variables of a user may make it."
    return Refused(413, message)


@lru_cache(maxsize=CACHED_HEADERS)
def accepted(header: str) -> tuple[MediaType, ...]:
    """What the client accepts by its Accept header, what it likes best first; nothing where the header is too long."""
    if len(header) > MAX_ACCEPT:
        return ()
    found = [media_type(part) for part in header.split(",") if part.strip()]
    return tuple(sorted((each for each in found if each.quality > 0), key=lambda each: -each.quality))


@lru_cache(maxsize=CACHED_HEADERS)
def media_type(text: str) -> MediaType:
    """One without a name where the text is too long."""
    if len(text) > MAX_MEDIA_TYPE:
        return MediaType("")
    parsed = Message()
    parsed["content-type"] = text.strip()
    (name, _), *parameters = parsed.get_params() or [("", "")]
    return MediaType(name.lower(), {key.lower(): value for key, value in parameters})


async def _body(request: Request, max_bytes: int | None) -> bytes:
    """Reads no more than it may have."""
    kind = media_type(request.headers.get("content-type", ""))
    if kind.name != "application/json":
        raise Refused(415, "Send the operation as application/json.")
    if kind.parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise Refused(415, "Send the operation in UTF-8.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if max_bytes is not None and len(body) > max_bytes:
            raise _too_long(max_bytes)
    return bytes(body)


def _from_address(request: Request) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if name in parameters:
            parameters[name] = _json(parameters[name].encode(), f"`{name}`") if parameters[name] else None
    return parameters


def _object(body: bytes) -> dict[str, Any]:
    parameters = _json(body, "The body")
    if isinstance(parameters, list):
        raise Refused(400, "Batches are not supported: send one operation per request.")
    if not isinstance(parameters, dict):
        raise Refused(400, "The body must be a JSON object.")
    return parameters


def _json(text: bytes, what: str) -> Any:  # noqa: ANN401  any JSON value
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"{what} is not valid JSON: {error.msg}.") from error


def _is_long_by_history(parameters: dict[str, Any], max_bytes: int) -> bool:
    """Whether a conversation's earlier messages come along in the variables.

    Not in the document: to parse 4 MB of it would hold up everybody for a second, to read 4 MB of JSON takes 10 ms.
    """
    query, variables = parameters.get("query"), parameters.get("variables")
    if not isinstance(variables, dict) or not isinstance(query, str) or len(query) > max_bytes:
        return False
    if not any(mutation in query for mutation in WITH_HISTORY):
        return False
    return any(isinstance(value, dict) and "history" in value for value in [variables, *variables.values()])


def _checked(parameters: dict[str, Any]) -> Asked:
    query = parameters.get("query")
    if not isinstance(query, str) or not query:
        raise Refused(400, "The request has no `query`, or it is not a string.")
    operation_name = parameters.get("operationName")
    if not isinstance(operation_name, str | None):
        raise Refused(400, "`operationName` must be a string.")
    for name in ("variables", "extensions"):
        if not isinstance(parameters.get(name), dict | None):
            raise Refused(400, f"`{name}` must be an object.")
    return Asked(query, parameters.get("variables"), operation_name or None, parameters.get("extensions"))
