"""Failures as data. A user's mistake is an entry of `errors` in the payload; anything unexpected is masked.

The text of a DomainError is the only one that goes out. What else goes wrong is logged under a correlation id, and
the client gets that id.
"""

import re
import secrets
from collections.abc import Callable
from math import ceil

import strawberry
from graphql import GraphQLError

from domain import errors as domain
from graph.messages import Message
from graph.quotas import Quota

strawberry.enum(domain.ErrorCode)
Unexpected = Callable[[str, BaseException], None]
QUOTED_VALUE = re.compile(r"(cannot represent [^:]*value|Expected value of type .*?)(?:, found)?: .*", re.DOTALL)
INTERNAL = "INTERNAL"
"""The code of an error that is masked."""


@strawberry.interface(description="Why a mutation did not do what was asked. Select `code` and `message`.")
class UserError:
    code: domain.ErrorCode
    message: str = strawberry.field(description="English, safe to show.")
    path: list[str] | None = strawberry.field(
        description='Where in the input, e.g. ["input", "settings", "params", "temperature"].'
    )


@strawberry.type
class InvalidInputError(UserError):
    pass


@strawberry.type
class NotFoundError(UserError):
    id: strawberry.ID | None


@strawberry.type(description="With `onBusy: REJECT`: a reply on the path of the message is still being made.")
class ReplyInProgressError(UserError):
    reply: Message


@strawberry.type(
    description="The idempotency key was used before with other content, the address is taken, or a tool call does not "
    "wait for this decision any more."
)
class ConflictError(UserError):
    pass


@strawberry.type
class ContextTooLongError(UserError):
    input_tokens: int
    limit: int


@strawberry.type(description="Bad credentials, an ended session, closed registration, or not allowed to this caller.")
class AccessError(UserError):
    pass


@strawberry.type(description="Too often; the same works again after so long.")
class RateLimitedError(UserError):
    retry_after_ms: int


@strawberry.type(description="The model, a tool or the database cannot be reached or is not there.")
class UnavailableError(UserError):
    pass


@strawberry.type(description="A limit of the user is reached: `quota` says which, and when there is more.")
class QuotaExceededError(UserError):
    quota: Quota


ERROR_TYPES = (
    InvalidInputError,
    NotFoundError,
    ReplyInProgressError,
    ConflictError,
    ContextTooLongError,
    UnavailableError,
    AccessError,
    RateLimitedError,
    QuotaExceededError,
)


def user_error(error: domain.DomainError) -> UserError:
    code, message, path = error.code, error.message, _path(error)
    match error:
        case domain.NotFound():
            return NotFoundError(code=code, message=message, path=path, id=strawberry.ID(error.id))
        case domain.ContextTooLong():
            return ContextTooLongError(
                code=code, message=message, path=path, input_tokens=error.input_tokens, limit=error.limit
            )
        case domain.QuotaExceeded():
            return QuotaExceededError(code=code, message=message, path=path, quota=Quota.of(error.quota))
        case domain.RateLimited(retry_after=seconds):
            return RateLimitedError(code=code, message=message, path=path, retry_after_ms=milliseconds(seconds))
        case _:
            return _PLAIN.get(type(error), InvalidInputError)(code=code, message=message, path=path)


_PLAIN: dict[type[domain.DomainError], type[UserError]] = {
    domain.IdempotencyMismatch: ConflictError,
    domain.EmailTaken: ConflictError,
    domain.Conflict: ConflictError,
    domain.ModelUnavailable: UnavailableError,
    domain.ToolUnavailable: UnavailableError,
    domain.Unavailable: UnavailableError,
    domain.Unauthenticated: AccessError,
    domain.AccessDenied: AccessError,
    domain.BadCredentials: AccessError,
    domain.SessionExpired: AccessError,
}
"""The errors that have nothing more to say than a code and a message."""


def reply_in_progress(error: domain.ReplyInProgress, reply: Message) -> UserError:
    return ReplyInProgressError(code=error.code, message=error.message, path=_path(error), reply=reply)


def refusal(error: domain.DomainError) -> GraphQLError:
    """Why an operation is not executed at all."""
    extensions: dict[str, object] = {"code": error.code.value}
    if isinstance(error, domain.RateLimited):
        extensions["retryAfterMs"] = milliseconds(error.retry_after)
    return GraphQLError(error.message, extensions=extensions)


def milliseconds(seconds: float) -> int:
    return ceil(1000 * seconds)


def _path(error: domain.DomainError) -> list[str]:
    return ["input", *error.path]


def masked(error: GraphQLError, unexpected: Unexpected) -> GraphQLError:
    """The error as it may go out: GraphQL's own and the domain's as they are, anything else under an id."""
    original = error.original_error
    if original is None or isinstance(original, GraphQLError):
        shown = without_values(error.message)
        return error if shown == error.message else _located(error, shown, error.extensions or {})
    if isinstance(original, domain.DomainError):
        return _located(error, original.message, {"code": original.code.value})
    if isinstance(original, domain.StorageError):
        away = domain.Unavailable()
        return _located(error, away.message, {"code": away.code.value})
    correlation_id = secrets.token_hex(8)
    unexpected(correlation_id, original)
    message = f"Something went wrong in the server; the operator finds it in the log under {correlation_id}."
    return _located(error, message, {"code": INTERNAL, "correlationId": correlation_id})


def without_values(message: str) -> str:
    """What GraphQL says of a wrong input without the input: passwords are inputs too, and errors get into logs."""
    return QUOTED_VALUE.sub(r"\1.", message)


def _located(error: GraphQLError, message: str, extensions: dict[str, object]) -> GraphQLError:
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=extensions,
    )
