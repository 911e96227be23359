"""Replies: the making of one assistant message. Its states, its table of moves, its error and its usage.

A reply has the id of its message. What clients ask to be done with replies is in `reply_service.py`; how one is made
is in `generation.py`; what is seen of it meanwhile is in `streaming.py`.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain.conversations import GenerationSettings
from domain.errors import ProviderError, QuotaExceeded, ReplyErrorCode


class ReplyStatus(StrEnum):
    QUEUED = "QUEUED"
    STREAMING = "STREAMING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    COMPLETE = "COMPLETE"
    STOPPED = "STOPPED"
    FAILED = "FAILED"

    @property
    def settled(self) -> bool:
        """Nothing will change any more."""
        return not MOVES[self]


MOVES: dict[ReplyStatus, frozenset[ReplyStatus]] = {
    ReplyStatus.QUEUED: frozenset({ReplyStatus.STREAMING, ReplyStatus.STOPPED, ReplyStatus.FAILED}),
    ReplyStatus.STREAMING: frozenset(
        {
            ReplyStatus.COMPLETE,
            ReplyStatus.STOPPED,
            ReplyStatus.FAILED,
            ReplyStatus.QUEUED,
            ReplyStatus.AWAITING_APPROVAL,
        }
    ),
    ReplyStatus.AWAITING_APPROVAL: frozenset({ReplyStatus.QUEUED, ReplyStatus.STOPPED, ReplyStatus.FAILED}),
    ReplyStatus.COMPLETE: frozenset(),
    ReplyStatus.STOPPED: frozenset(),
    ReplyStatus.FAILED: frozenset(),
}
"""STREAMING goes back to QUEUED when its owner died or handed it over; the next claim goes on from what was shown.

AWAITING_APPROVAL has no owner; it is QUEUED again when the last of its tool calls that wait is decided on.
"""


class Recovery(StrEnum):
    """What becomes of a reply that broke off after it had shown text: its server died, or its endpoint cut it."""

    CONTINUE = "continue"
    """The model is asked to go on from the text that was shown."""
    KEEP = "keep"
    """It fails and keeps the text; clients may ask for more with continueReply."""


class FinishReason(StrEnum):
    STOP = "STOP"
    LENGTH = "LENGTH"
    CONTENT_FILTER = "CONTENT_FILTER"
    REFUSAL = "REFUSAL"
    TOOL_LIMIT = "TOOL_LIMIT"
    STOPPED_BY_USER = "STOPPED_BY_USER"
    ERROR = "ERROR"


LONGEST_WAIT_SECONDS = 1_000_000.0
"""Endpoints may say what they like; in milliseconds this still fits GraphQL's Int."""


@dataclass(frozen=True, slots=True)
class ReplyError:
    """Why a reply failed, in words a user may read. `retry_after_ms` is what the endpoint asked for, when it did."""

    code: ReplyErrorCode
    message: str
    retryable: bool
    retry_after_ms: int | None = None

    @classmethod
    def from_provider(cls, error: ProviderError) -> "ReplyError":
        wait = None if error.retry_after is None else _milliseconds(error.retry_after)
        return cls(error.code, error.message, error.retryable, wait)

    @classmethod
    def from_quota(cls, error: QuotaExceeded, now: datetime) -> "ReplyError":
        """It may succeed when there are new tokens, unless it needs more than there ever are."""
        again = error.quota.resets_at
        wait = None if again is None else _milliseconds(max(0.0, (again - now).total_seconds()))
        return cls(ReplyErrorCode.QUOTA_EXCEEDED, error.message, again is not None, wait)


def _milliseconds(wait: float) -> int:
    return round(1000 * min(wait, LONGEST_WAIT_SECONDS))


INTERRUPTED = ReplyError(
    ReplyErrorCode.INTERRUPTED,
    "The server stopped while it wrote this reply. What was written is kept; try again for a whole one.",
    retryable=True,
)
STORAGE_FAILED = ReplyError(
    ReplyErrorCode.STORAGE,
    "The server could not store this reply. What was stored is kept; try again in a moment.",
    retryable=True,
)
INTERNAL = ReplyError(
    ReplyErrorCode.INTERNAL, "Something went wrong in the server; the operator finds it in the log.", retryable=True
)


class ReplyFailed(Exception):
    """A reply cannot be made, for the reason that becomes its error."""

    def __init__(self, error: ReplyError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt, or of several added up. `estimated`: counted here, as the provider did not say."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The making of the assistant message `id`.

    `attempt` rises at every claim and is the fencing token. `requests` counts calls to the provider. `settings` are
    resolved: every level is already folded in. `behind_id` is the reply on its own path that it waits for.
    `usage` is the sum over the attempts, None until one has ended.
    """

    id: str
    conversation_id: str
    status: ReplyStatus
    settings: GenerationSettings
    instruction: str | None
    behind_id: str | None
    attempt: int
    rescues: int
    requests: int
    stop_requested: bool
    queued_at: datetime
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    finished_at: datetime | None = None
    finish_reason: FinishReason | None = None
    error: ReplyError | None = None
    response_model: str | None = None
    completion_id: str | None = None
    request_id: str | None = None
    last_seq: int | None = None
    usage: Usage | None = None

    @property
    def model(self) -> str:
        return self.settings.model or ""


Attempt = tuple[str, int]
"""A reply's id and the number of the attempt: one reply may be made twice by one process, one attempt after another."""


@dataclass(slots=True)
class Owner:
    """The name under which this process holds replies: a fresh one at every start, and whenever others buried it."""

    id: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one process to write one reply: void as soon as another attempt has begun.

    `reserved_tokens` is what the attempt may spend of its user's budget; 0 where nothing was reserved.
    """

    reply_id: str
    conversation_id: str
    user_id: str
    attempt: int
    owner: str
    next_seq: int
    settings: GenerationSettings
    instruction: str | None
    rescues: int = 0
    stop_requested: bool = False
    reserved_tokens: int = 0

    @property
    def key(self) -> Attempt:
        return self.reply_id, self.attempt

    @property
    def fresh(self) -> bool:
        """Whether the log has nothing but the event of this claim."""
        return self.next_seq <= 2


@dataclass(frozen=True, slots=True)
class Held:
    """A reply that a process holds, as the database says."""

    reply_id: str
    attempt: int
    stop_requested: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a reply's log stands. `newest_seq` is the number of its last event, also after the log was swept."""

    status: ReplyStatus
    newest_seq: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended; together with the text this is what gets stored at the end."""

    status: ReplyStatus
    finish_reason: FinishReason
    error: ReplyError | None = None
    usage: Usage = Usage(estimated=True)
    requests: int = 0
    response_model: str | None = None
    completion_id: str | None = None
    request_id: str | None = None
    first_token_at: datetime | None = None
    token_count: int = 0
    reasoning_ms: int | None = None


@dataclass(frozen=True, slots=True)
class HandOver:
    """An attempt that ended without an end: the reply goes back into the queue, and another attempt goes on with it.

    With `awaits_approval` not before users have decided on the tool calls that wait for it. `token_count` is that of
    all that was shown so far; `usage` is this attempt's own.
    """

    usage: Usage = Usage(estimated=True)
    requests: int = 0
    token_count: int = 0
    awaits_approval: bool = False
