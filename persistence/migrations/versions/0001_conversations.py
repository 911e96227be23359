"""Conversations, messages, replies and their log.

Revision: 0001, the first
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from domain.accounts import LOCAL_USER_ID

revision = "0001"
down_revision = None

ID = sa.String(48)
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def _reference(target: str) -> sa.ForeignKey:
    return sa.ForeignKey(target, ondelete="CASCADE")


def upgrade() -> None:
    users = op.create_table(
        "users",
        sa.Column("id", ID, nullable=False),
        sa.Column("display_name", sa.Text),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.bulk_insert(users, [{"id": LOCAL_USER_ID, "created_at": datetime.now(UTC)}])
    _create_conversations()
    _create_messages()
    _create_replies()
    _create_logs()
    _create_keys_and_workers()


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("title_source", sa.String(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("last_activity_at", INSTANT, nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("leaf_id", ID),
        sa.Column("deleted_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_conversations_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_conversations_sidebar", "conversations", ["user_id", "last_activity_at", "id"])
    op.create_index(
        "ix_conversations_deleted_at",
        "conversations",
        ["deleted_at"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", ID, nullable=False),
        sa.Column("conversation_id", ID, nullable=False),
        sa.Column("parent_id", ID),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("parts", JSON, nullable=False),
        sa.Column("token_count", sa.Integer, nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_messages_conversation_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["messages.id"], name="fk_messages_parent_id"),
    )
    op.create_index("ix_messages_conversation_id_id", "messages", ["conversation_id", "id"])
    op.create_index("ix_messages_parent_id", "messages", ["parent_id"])


def _create_replies() -> None:
    op.create_table(
        "replies",
        sa.Column("id", ID, nullable=False),
        sa.Column("conversation_id", ID, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("instruction", sa.Text),
        sa.Column("behind_id", ID),
        sa.Column("owner", ID),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("rescues", sa.Integer, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("stop_requested", sa.Boolean, nullable=False),
        sa.Column("queued_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT),
        sa.Column("first_token_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.Column("finish_reason", sa.String(24)),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.Text),
        sa.Column("error_retryable", sa.Boolean),
        sa.Column("error_retry_after_ms", sa.Integer),
        sa.Column("response_model", sa.Text),
        sa.Column("completion_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("last_seq", sa.Integer),
        sa.Column("swept", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replies"),
        sa.ForeignKeyConstraint(["id"], ["messages.id"], name="fk_replies_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_replies_conversation_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_replies_conversation_id", "replies", ["conversation_id"])
    op.create_index("ix_replies_status_queued_at", "replies", ["status", "queued_at"])
    op.create_index("ix_replies_behind_id", "replies", ["behind_id"])
    op.create_index("ix_replies_swept_finished_at", "replies", ["swept", "finished_at"])


def _create_logs() -> None:
    op.create_table(
        "reply_events",
        sa.Column("reply_id", ID, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("part", sa.Integer),
        sa.Column("text", sa.Text),
        sa.Column("data", JSON),
        sa.PrimaryKeyConstraint("reply_id", "seq", name="pk_reply_events"),
        sa.ForeignKeyConstraint(["reply_id"], ["replies.id"], name="fk_reply_events_reply_id", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reply_attempts",
        sa.Column("reply_id", ID, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("ended_at", INSTANT, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cached_input_tokens", sa.Integer, nullable=False),
        sa.Column("reasoning_tokens", sa.Integer, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("reply_id", "attempt", name="pk_reply_attempts"),
        sa.ForeignKeyConstraint(["reply_id"], ["replies.id"], name="fk_reply_attempts_reply_id", ondelete="CASCADE"),
    )


def _create_keys_and_workers() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", ID, nullable=False),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("result", JSON),
        sa.Column("used_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "operation", "key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_idempotency_keys_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_idempotency_keys_used_at", "idempotency_keys", ["used_at"])
    op.create_table(
        "workers",
        sa.Column("id", ID, nullable=False),
        sa.Column("beat_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def downgrade() -> None:
    for table in (
        "workers",
        "idempotency_keys",
        "reply_attempts",
        "reply_events",
        "replies",
        "messages",
        "conversations",
        "users",
    ):
        op.drop_table(table)
