"""Every table in one file: the map of the data.

    users ─< conversations ─< messages (a tree by parent_id) ─ replies (same id) ─< reply_events   the log, swept later
                                                                                └< reply_attempts  usage, kept
                                                                                └< tool_calls      what runs, and waits
    conversations ─< tool_approvals   tools that users allowed for good      users ─< tasks
    users ─< conversation_events   what happened to whom, numbered by users.event_seq, swept later
    users ─< sessions ─< refresh_tokens   one family per sign-in      users ─< api_keys
    users ─< token_usage   what was spent each day, UTC               rates   how often what was tried, by a key
    idempotency_keys   what a client's key stood for            workers   one heartbeat per process

Text that grows is never rewritten: a live reply's text is in `reply_events` only, and is folded into
`messages.parts` once, in the transaction that settles it.

Everything a conversation owns goes with it by ON DELETE CASCADE, but no row goes with its parent message: SQLite
follows a chain of cascades only to a depth of 1,000, and a conversation may be longer.

The unique indexes of `users` are partial: else PostgreSQL takes their columns for ones that foreign keys may point to,
and a change of an address would wait for everybody who adds something of that user, and they for it.

Of replies, QUEUED and STREAMING ones are live: they use up what a user may have at once. One that awaits approval
does not, but it has not ended either: what must wait for an end, or brings it about, counts all three, see
`UNSETTLED`.

What live replies may still spend is reserved on their own rows: an end of a reply ends its reservation.

`messages.jump_id` is a message further up, `jump_steps` steps above: see `persistence/paths.py`.
`replies.user_id` is that of its conversation when it was added, for the index of live replies; null where an older
server added the row.
`replies.swept` says that the log is gone: so a sweep looks at what is new, not at every reply that ever ended.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
    or_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

from domain.replies import ReplyStatus

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def storable_id(value: str) -> str:
    if value.isascii() and "\0" not in value:
        return value
    return value.encode(errors="replace").decode().replace("\0", "?")


class Id(TypeDecorator[str]):
    """An id. Clients send any text as one: what no database can store is made storable, and names nothing."""

    impl = String(48)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable_id(value)


class IdList(TypeDecorator[Sequence[str]]):
    """Ids as one parameter, for SQLite's json_each."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Sequence[str] | None:
        return None if value is None else [storable_id(each) for each in value]


class Instant(TypeDecorator[datetime]):
    """An instant with microseconds; SQLite forgets the zone, so UTC goes in and comes out. Without a zone it is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return None if value is None else value.replace(tzinfo=UTC)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

DELETED = text("deleted_at IS NOT NULL")
HAS_EMAIL = text("email IS NOT NULL")
HAS_SUBJECT = text("subject IS NOT NULL")
ROOT = text("parent_id IS NULL")
LIVE = text("status IN ('QUEUED', 'STREAMING')")
"""Of replies: they count towards their user's limits."""
UNSETTLED = tuple(status.value for status in ReplyStatus if not status.settled)
"""The states of replies that have not ended: those that are live, and those that await approval."""


def unsettled(status: ColumnElement[str]) -> ColumnElement[bool]:
    """`status IN UNSETTLED`, written out: what is a list of parameters is put together anew at every execution."""
    return or_(*(status == literal_column(f"'{state}'") for state in UNSETTLED))


users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("display_name", Text),
    Column("created_at", Instant, nullable=False),
    Column("event_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("email", String(254)),
    Column("password_hash", Text),
    Column("issuer", String(255)),
    Column("subject", String(255)),
    Column("deleted_at", Instant),
    Index("uq_users_email", "email", unique=True, sqlite_where=HAS_EMAIL, postgresql_where=HAS_EMAIL),
    Index(
        "uq_users_issuer_subject",
        "issuer",
        "subject",
        unique=True,
        sqlite_where=HAS_SUBJECT,
        postgresql_where=HAS_SUBJECT,
    ),
    Index("ix_users_deleted_at", "deleted_at", sqlite_where=DELETED, postgresql_where=DELETED),
)
PRESENT = users.c.deleted_at.is_(None)
"""Of users: not deleted."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("user_agent", Text),
    Column("created_at", Instant, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index("ix_sessions_user_id", "user_id"),
    Index("ix_sessions_expires_at", "expires_at"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("used_at", Instant),
    Index("ix_refresh_tokens_session_id", "session_id"),
    Index("ix_refresh_tokens_expires_at", "expires_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("last_used_at", Instant),
    Column("expires_at", Instant),
    Index("ix_api_keys_user_id", "user_id"),
    Index("uq_api_keys_hash", "hash", unique=True),
)

rates = Table(
    "rates",
    metadata,
    Column("key", String(320), primary_key=True),
    Column("hits", Json, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index("ix_rates_expires_at", "expires_at"),
)

token_usage = Table(
    "token_usage",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("title", Text, nullable=False),
    Column("title_source", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("last_activity_at", Instant, nullable=False),
    Column("settings", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("leaf_id", Id),
    Column("deleted_at", Instant),
    Index("ix_conversations_sidebar", "user_id", "last_activity_at", "id"),
    Index("ix_conversations_deleted_at", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("parent_id", ForeignKey("messages.id")),
    Column("role", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("parts", Json, nullable=False),
    Column("token_count", Integer, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("idempotency_key", Text),
    Column("jump_id", Id),
    Column("jump_steps", Integer),
    Index("ix_messages_conversation_id_id", "conversation_id", "id"),
    Index("ix_messages_parent_id", "parent_id"),
    Index("ix_messages_roots", "conversation_id", "id", sqlite_where=ROOT, postgresql_where=ROOT),
)

replies = Table(
    "replies",
    metadata,
    Column("id", ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    Column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("status", String(24), nullable=False),
    Column("settings", Json, nullable=False),
    Column("instruction", Text),
    Column("behind_id", Id),
    Column("owner", Id),
    Column("attempt", Integer, nullable=False),
    Column("rescues", Integer, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("stop_requested", Boolean, nullable=False),
    Column("queued_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("first_token_at", Instant),
    Column("finished_at", Instant),
    Column("finish_reason", String(24)),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Column("error_retryable", Boolean),
    Column("error_retry_after_ms", Integer),
    Column("response_model", Text),
    Column("completion_id", Text),
    Column("request_id", Text),
    Column("last_seq", Integer),
    Column("swept", Boolean, nullable=False, default=False),
    Column("user_id", Id),
    Column("reserved_tokens", Integer, nullable=False, server_default=text("0")),
    Index("ix_replies_live", "user_id", sqlite_where=LIVE, postgresql_where=LIVE),
    Index("ix_replies_conversation_id_status", "conversation_id", "status"),
    Index("ix_replies_status_queued_at", "status", "queued_at"),
    Index("ix_replies_behind_id", "behind_id"),
    Index("ix_replies_swept_finished_at", "swept", "finished_at"),
)

reply_events = Table(
    "reply_events",
    metadata,
    Column("reply_id", ForeignKey("replies.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("part", Integer),
    Column("text", Text),
    Column("data", Json),
    sqlite_with_rowid=False,
)

reply_attempts = Table(
    "reply_attempts",
    metadata,
    Column("reply_id", ForeignKey("replies.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("ended_at", Instant, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_input_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("estimated", Boolean, nullable=False),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("id", Id, primary_key=True),
    Column("reply_id", ForeignKey("replies.id", ondelete="CASCADE"), nullable=False),
    Column("part", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", String(24), nullable=False),
    Column("expires_at", Instant),
    Column("data", Json, nullable=False),
    Index("ix_tool_calls_reply_id", "reply_id"),
)
AWAITING = tool_calls.c.status == literal_column("'AWAITING_APPROVAL'")
"""Of calls: users have not decided on them."""
Index("ix_tool_calls_expires_at", tool_calls.c.expires_at, sqlite_where=AWAITING, postgresql_where=AWAITING)

tool_approvals = Table(
    "tool_approvals",
    metadata,
    Column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("tool", Text, primary_key=True),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("conversation_id", ForeignKey("conversations.id", ondelete="SET NULL")),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("priority", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("completed_at", Instant),
    Index("ix_tasks_user_id_id", "user_id", "id"),
    Index("ix_tasks_conversation_id", "conversation_id"),
)

conversation_events = Table(
    "conversation_events",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("conversation_id", Id, nullable=False),
    Column("message_id", Id),
    Column("tool_call_id", Id),
    Column("at", Instant, nullable=False),
    Index("ix_conversation_events_at", "at"),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("operation", String(32), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("result", Json),
    Column("used_at", Instant, nullable=False),
    Index("ix_idempotency_keys_used_at", "used_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("beat_at", Instant, nullable=False),
)
