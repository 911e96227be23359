"""What the operator sees: Prometheus metrics and structured logs. Never any content, never a secret."""

import logging
import sys
import traceback
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.typing import EventDict

from domain.errors import ProviderError, StorageError, Unavailable
from domain.models import ChatRequest
from domain.ports import ProviderCall
from domain.replies import Lease, Outcome
from domain.reply_service import Sent
from domain.tool_calls import ToolCall
from tertulia.settings import Settings

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FLUSH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
TALKATIVE = (
    *("uvicorn", "openai", "httpx", "httpx2", "aiosqlite", "alembic", "strawberry", "asyncio", "filelock"),
    *("mcp", "client"),  # both of the library mcp
)
"""Libraries that log addresses, frames or bodies, and with them what people write."""


def configure_logging(settings: Settings) -> None:
    """JSON in production, coloured lines in a terminal; the standard library's loggers go the same way.

    A line that cannot be written is lost: logging never raises, so that a full disk or a closed pipe stops no reply.
    """
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        traceback_without_messages,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.raiseExceptions = False
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    for talkative in TALKATIVE:
        logging.getLogger(talkative).setLevel(max(logging.WARNING, logging.getLogger().level))


def traceback_without_messages(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Where an exception came from, and its type; what it says is left out, as it may quote what users wrote."""
    given = event.pop("exc_info", None)
    error = sys.exception() if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = "".join(_frames(error))
    return event


def _frames(error: BaseException | None) -> list[str]:
    """The frames of an exception after those of its causes and before those of its parts."""
    if error is None:
        return []
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    own = [*traceback.format_tb(error.__traceback__), f"{type(error).__module__}.{type(error).__qualname__}\n"]
    return [*_frames(earlier), *own, *(line for part in parts for line in _frames(part))]


class OperatorTelemetry:
    """The Telemetry port over prometheus-client and structlog. Each server has its own registry.

    Made once logging is configured: its logger is bound to that, where an unbound one is bound anew for every line.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.log = structlog.get_logger("tertulia").bind()
        make: dict[str, Any] = {"registry": self.registry}
        self.operations = Counter(
            "tertulia_operations", "GraphQL operations.", ["operation", "type", "outcome"], **make
        )
        self.replies = Counter("tertulia_replies", "Replies ended.", ["model", "finish_reason"], **make)
        self.live = Gauge("tertulia_replies_live", "Replies being made by this process.", **make)
        self.queued = Gauge("tertulia_replies_queued", "Replies waiting to be made.", **make)
        self.tokens = Counter("tertulia_tokens", "Tokens used.", ["model", "kind"], **make)
        self.calls = Histogram(
            "tertulia_provider_seconds", "Duration of a provider call.", ["model", "outcome"], buckets=SECONDS, **make
        )
        self.first_token = Histogram(
            "tertulia_first_token_seconds", "Provider call to its first token.", ["model"], buckets=SECONDS, **make
        )
        self.provider_errors = Counter("tertulia_provider_errors", "Failed calls.", ["model", "code"], **make)
        self.tools = Histogram(
            "tertulia_tool_seconds", "Calls of tools, until their result.", ["tool", "outcome"], **make
        )
        self.retries = Counter("tertulia_provider_retries", "Repeated calls.", ["model", "code"], **make)
        self.subscribers = Gauge("tertulia_subscribers", "Open streams of replies and of conversation events.", **make)
        self.flushes = Histogram(
            "tertulia_journal_flush_seconds", "One commit of the journal.", buckets=FLUSH_SECONDS, **make
        )
        self.events = Counter("tertulia_journal_events", "Events committed by the journal.", **make)
        self.storage_errors = Counter("tertulia_storage_errors", "Failed database transactions.", ["kind"], **make)

    # ── the Telemetry port ──

    def provider_called(self, request: ChatRequest, call: ProviderCall) -> None:
        model = request.model
        self.calls.labels(model, call.outcome).observe(call.seconds)
        if call.first_token_seconds is not None:
            self.first_token.labels(model).observe(call.first_token_seconds)
        if call.outcome.isupper() and call.outcome.startswith(("PROVIDER_", "CONTEXT_")):
            self.provider_errors.labels(model, call.outcome).inc()
        self.log.info(
            "provider call",
            reply_id=request.reply_id,
            conversation_id=request.conversation_id,
            model=model,
            outcome=call.outcome,
            seconds=round(call.seconds, 3),
            first_token_seconds=None if call.first_token_seconds is None else round(call.first_token_seconds, 3),
            input_tokens=call.usage.input_tokens,
            output_tokens=call.usage.output_tokens,
        )

    def provider_failed(self, lease: Lease, error: ProviderError) -> None:
        """Only how the provider failed: what it says, of a wrong key too, may quote the request or the key."""
        self.log.warning(
            "provider failed",
            reply_id=lease.reply_id,
            conversation_id=lease.conversation_id,
            model=lease.settings.model,
            code=error.code.value,
            detail=error.detail.partition(":")[0],
        )

    def provider_retried(self, request: ChatRequest, error: Exception) -> None:
        code = error.code.value if isinstance(error, ProviderError) else type(error).__name__
        self.retries.labels(request.model, code).inc()
        self.log.warning("provider call repeated", reply_id=request.reply_id, model=request.model, code=code)

    def reply_settled(self, lease: Lease, outcome: Outcome) -> None:
        model = lease.settings.model or ""
        self.replies.labels(model, outcome.finish_reason.value).inc()
        self.tokens.labels(model, "input").inc(outcome.usage.input_tokens)
        self.tokens.labels(model, "output").inc(outcome.usage.output_tokens)
        self.log.info(
            "reply ended",
            reply_id=lease.reply_id,
            conversation_id=lease.conversation_id,
            status=outcome.status.value,
            code=None if outcome.error is None else outcome.error.code.value,
            attempt=lease.attempt,
        )

    def reply_crashed(self, reply_id: str, error: BaseException) -> None:
        self.log.error("reply crashed", reply_id=reply_id, exc_info=error)

    def tool_called(self, call: ToolCall) -> None:
        outcome = call.error_code or call.status
        if call.started_at is not None and call.finished_at is not None:
            seconds = (call.finished_at - call.started_at).total_seconds()
            self.tools.labels(call.name, outcome.value).observe(seconds)
        self.log.info("tool called", tool=call.name, call_id=call.id, outcome=outcome.value)

    def tool_broke(self, call: ToolCall, error: BaseException) -> None:
        self.log.error("tool broke", tool=call.name, call_id=call.id, exc_info=error)

    def journal_flushed(self, seconds: float, events: int) -> None:
        self.flushes.observe(seconds)
        self.events.inc(events)

    def worker_renamed(self, owner: str) -> None:
        self.log.warning("others took this process for dead; it goes on under a new name", worker=owner)

    def work_failed(self, error: Exception) -> None:
        self.storage_errors.labels(type(error).__name__).inc()
        known = isinstance(error, StorageError | Unavailable)
        self.log.error("background work failed", error=type(error).__name__, exc_info=None if known else error)

    def stream_opened(self) -> None:
        self.subscribers.inc()

    def stream_closed(self) -> None:
        self.subscribers.dec()

    def replies_live(self, streaming: int) -> None:
        self.live.set(streaming)

    # ── the API's side ──

    def unexpected(self, correlation_id: str, error: BaseException) -> None:
        self.log.error("unexpected error", correlation_id=correlation_id, exc_info=error)

    def operation(self, name: str, kind: str, outcome: str) -> None:
        self.operations.labels(name, kind, outcome).inc()
        self.log.info("operation", operation=name, type=kind, outcome=outcome)

    def reply_queued(self, sent: Sent) -> None:
        """Ties the request, whose id every line of its own carries, to the reply, which is made outside it."""
        ids = {"conversation_id": sent.conversation_id, "message_id": sent.message_id, "reply_id": sent.reply_id}
        self.log.info("reply queued", **ids, replayed=sent.replayed)
