"""Accounts: sign-ins, API keys, rates and budgets.

Revision: 0003, after 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.String(48)
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")
DELETED = sa.text("deleted_at IS NOT NULL")
HAS_EMAIL = sa.text("email IS NOT NULL")
HAS_SUBJECT = sa.text("subject IS NOT NULL")
LIVE = sa.text("status IN ('QUEUED', 'STREAMING')")
OF_USERS: dict[str, sa.types.TypeEngine[Any]] = {
    "email": sa.String(254),
    "password_hash": sa.Text(),
    "issuer": sa.String(255),
    "subject": sa.String(255),
    "deleted_at": INSTANT,
}


def upgrade() -> None:
    for name, kind in OF_USERS.items():
        op.add_column("users", sa.Column(name, kind))
    op.create_index(
        "uq_users_email", "users", ["email"], unique=True, sqlite_where=HAS_EMAIL, postgresql_where=HAS_EMAIL
    )
    op.create_index(
        "uq_users_issuer_subject",
        "users",
        ["issuer", "subject"],
        unique=True,
        sqlite_where=HAS_SUBJECT,
        postgresql_where=HAS_SUBJECT,
    )
    op.create_index("ix_users_deleted_at", "users", ["deleted_at"], sqlite_where=DELETED, postgresql_where=DELETED)
    _sign_ins()
    _api_keys()
    _limits()


def _sign_ins() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("user_agent", sa.Text),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("session_id", ID, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("used_at", INSTANT),
        sa.PrimaryKeyConstraint("hash", name="pk_refresh_tokens"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_refresh_tokens_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    op.create_index("ix_refresh_tokens_expires_at", "refresh_tokens", ["expires_at"])


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("last_used_at", INSTANT),
        sa.Column("expires_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    op.create_index("uq_api_keys_hash", "api_keys", ["hash"], unique=True)


def _limits() -> None:
    op.create_table(
        "rates",
        sa.Column("key", sa.String(320), nullable=False),
        sa.Column("hits", JSON, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_rates"),
    )
    op.create_index("ix_rates_expires_at", "rates", ["expires_at"])
    op.create_table(
        "token_usage",
        sa.Column("user_id", ID, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "day", name="pk_token_usage"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_token_usage_user_id", ondelete="CASCADE"),
    )
    op.add_column("replies", sa.Column("user_id", ID))
    op.add_column("replies", sa.Column("reserved_tokens", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.create_index("ix_replies_live", "replies", ["user_id"], sqlite_where=LIVE, postgresql_where=LIVE)
    op.execute(
        "UPDATE replies SET user_id = "
        "(SELECT conversations.user_id FROM conversations WHERE conversations.id = replies.conversation_id) "
        "WHERE status IN ('QUEUED', 'STREAMING')"
    )


def downgrade() -> None:
    op.drop_index("ix_replies_live", "replies")
    op.drop_column("replies", "reserved_tokens")
    op.drop_column("replies", "user_id")
    for table in ("token_usage", "rates", "api_keys", "refresh_tokens", "sessions"):
        op.drop_table(table)
    for index in ("ix_users_deleted_at", "uq_users_issuer_subject", "uq_users_email"):
        op.drop_index(index, "users")
    for name in OF_USERS:
        op.drop_column("users", name)
