"""Every way in which a request or a reply can fail for a reason that a person may be told.

    DomainError
    ├── InvalidInput        the input breaks a rule; `path` says where
    ├── NotFound            absent, deleted or somebody else's: the three are not told apart
    ├── ReplyInProgress     the message was to be sent only if no reply above it is still being made
    ├── IdempotencyMismatch the key was used before with other content
    ├── ContextTooLong      one message that cannot fit the model's window even alone
    ├── ModelUnavailable    no such model is configured here
    ├── ToolUnavailable     no such tool is offered here, or the model cannot call tools
    ├── Conflict            what was asked for does not fit how things stand by now
    ├── Unauthenticated     nobody is signed in, or what was shown for it does not hold
    ├── AccessDenied        bad credentials, an ended session, closed registration, or not allowed
    ├── EmailTaken          there is a user with this address
    ├── RateLimited         too often; says when to come back
    ├── QuotaExceeded       a budget is used up; says which
    └── Unavailable         storage, or whatever else is needed, is away; trying again helps
    ProviderError           the model's endpoint failed; ends up as data on the reply
    StorageError            the database failed in mid-work; never shown as it is
    └── DataRefused         it cannot take these very rows

Messages are English, safe to show, and name the cure. Nothing here knows of GraphQL, HTTP or SQL.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from math import ceil


class ErrorCode(StrEnum):
    """Why a mutation did not do what was asked."""

    INVALID_INPUT = "INVALID_INPUT"
    NOT_FOUND = "NOT_FOUND"
    REPLY_IN_PROGRESS = "REPLY_IN_PROGRESS"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    TOOL_UNAVAILABLE = "TOOL_UNAVAILABLE"
    UNAVAILABLE = "UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    BAD_CREDENTIALS = "BAD_CREDENTIALS"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    REGISTRATION_CLOSED = "REGISTRATION_CLOSED"
    FORBIDDEN = "FORBIDDEN"
    CONFLICT = "CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"


class ReplyErrorCode(StrEnum):
    """Why a reply failed."""

    PROVIDER_RATE_LIMITED = "PROVIDER_RATE_LIMITED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"
    PROVIDER_REJECTED = "PROVIDER_REJECTED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOOL_FAILED = "TOOL_FAILED"
    INTERRUPTED = "INTERRUPTED"
    STORAGE = "STORAGE"
    INTERNAL = "INTERNAL"


class QuotaName(StrEnum):
    """What a user may have or use only so much of."""

    SENDS_PER_MINUTE = "SENDS_PER_MINUTE"
    LIVE_REPLIES = "LIVE_REPLIES"
    TOKENS_PER_DAY = "TOKENS_PER_DAY"
    TOKENS_PER_MONTH = "TOKENS_PER_MONTH"


@dataclass(frozen=True, slots=True)
class Quota:
    """`used` counts what is reserved as well. `resets_at` is None where time alone does not help."""

    name: QuotaName
    limit: int
    used: int
    resets_at: datetime | None


class DomainError(Exception):
    """A failure that the caller caused and may read.

    `path` names the place in the input, without the leading "input", e.g. ("settings", "params", "temperature").
    """

    code: ErrorCode

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class InvalidInput(DomainError):
    code = ErrorCode.INVALID_INPUT


class NotFound(DomainError):
    code = ErrorCode.NOT_FOUND

    def __init__(self, kind: str, id_: str, *path: str) -> None:
        super().__init__(f"There is no {kind} with this id, or it is not yours.", *path)
        self.id = id_


class ReplyInProgress(DomainError):
    code = ErrorCode.REPLY_IN_PROGRESS

    def __init__(self, reply_id: str) -> None:
        super().__init__(
            "A reply that comes before this message is still being made. Wait for its end or stop it; or send with "
            "`onBusy: QUEUE` to wait in line, or with `INTERRUPT` to stop it by sending.",
            "onBusy",
        )
        self.reply_id = reply_id


class IdempotencyMismatch(DomainError):
    code = ErrorCode.IDEMPOTENCY_MISMATCH

    def __init__(self) -> None:
        super().__init__(
            "This idempotency key was used before with other content; use a new key for a new request.",
            "idempotencyKey",
        )


class ContextTooLong(DomainError):
    code = ErrorCode.CONTEXT_TOO_LONG

    def __init__(self, input_tokens: int, limit: int) -> None:
        super().__init__(
            f"The message and the system prompt need {input_tokens} tokens, but this model takes {limit}. "
            "Shorten the text or choose a model with a larger context.",
            "text",
        )
        self.input_tokens = input_tokens
        self.limit = limit


class ModelUnavailable(DomainError):
    code = ErrorCode.MODEL_UNAVAILABLE

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model {model!r} is not offered by this server; the `models` query lists those that are.",
            "settings",
            "model",
        )


class ToolUnavailable(DomainError):
    code = ErrorCode.TOOL_UNAVAILABLE

    def __init__(self, message: str) -> None:
        super().__init__(message, "settings", "tools")


class Conflict(DomainError):
    code = ErrorCode.CONFLICT


class Unavailable(DomainError):
    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str = "The server cannot reach its database right now; try again in a moment.") -> None:
        super().__init__(message)


class Unauthenticated(DomainError):
    code = ErrorCode.UNAUTHENTICATED


class AccessDenied(DomainError):
    """`code` says which: BAD_CREDENTIALS, SESSION_EXPIRED, REGISTRATION_CLOSED or FORBIDDEN."""

    def __init__(self, code: ErrorCode, message: str, *path: str) -> None:
        super().__init__(message, *path)
        self.code = code


class BadCredentials(AccessDenied):
    def __init__(self) -> None:
        super().__init__(ErrorCode.BAD_CREDENTIALS, "The e-mail address or the password is wrong.")


class SessionExpired(AccessDenied):
    def __init__(self) -> None:
        super().__init__(ErrorCode.SESSION_EXPIRED, "The session has ended; sign in again.", "refreshToken")


class EmailTaken(DomainError):
    code = ErrorCode.CONFLICT

    def __init__(self) -> None:
        super().__init__("There is a user with this e-mail address; sign in, or use another address.", "email")


class RateLimited(DomainError):
    """`retry_after` is in seconds."""

    code = ErrorCode.RATE_LIMITED

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(f"Too many {what}; try again in {ceil(retry_after)} s.")
        self.retry_after = retry_after


class QuotaExceeded(DomainError):
    code = ErrorCode.QUOTA_EXCEEDED

    def __init__(self, message: str, quota: Quota) -> None:
        super().__init__(message)
        self.quota = quota


class StorageError(Exception):
    """The database did not do what it was asked for a reason that is not the caller's."""


class DataRefused(StorageError):
    """The database cannot take these very rows: sending them again will not help."""


class ProviderError(Exception):
    """A failed request to a model's endpoint.

    `retryable`: the same request may succeed later. `retry_after`: seconds the endpoint asked us to wait.
    `detail` is for the server's log only: it may quote the endpoint.
    """

    def __init__(
        self,
        code: ReplyErrorCode,
        message: str,
        *,
        retryable: bool,
        retry_after: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.detail = detail
