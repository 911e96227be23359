"""Tools: the calls of replies, what users allowed, and tasks.

The status AWAITING_APPROVAL of replies is longer than those before. Going down, replies that await approval are queued
again; an older server cannot show what called tools.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ID = sa.String(48)
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")
AWAITING = sa.text("status = 'AWAITING_APPROVAL'")


def upgrade() -> None:
    with op.batch_alter_table("replies") as replies:
        replies.alter_column("status", existing_type=sa.String(16), type_=sa.String(24), existing_nullable=False)
    op.add_column("conversation_events", sa.Column("tool_call_id", ID))
    _calls()
    _tasks()


def _calls() -> None:
    op.create_table(
        "tool_calls",
        sa.Column("id", ID, nullable=False),
        sa.Column("reply_id", ID, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("expires_at", INSTANT),
        sa.Column("data", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tool_calls"),
        sa.ForeignKeyConstraint(["reply_id"], ["replies.id"], name="fk_tool_calls_reply_id", ondelete="CASCADE"),
    )
    op.create_index("ix_tool_calls_reply_id", "tool_calls", ["reply_id"])
    op.create_index(
        "ix_tool_calls_expires_at", "tool_calls", ["expires_at"], sqlite_where=AWAITING, postgresql_where=AWAITING
    )
    op.create_table(
        "tool_approvals",
        sa.Column("conversation_id", ID, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "tool", name="pk_tool_approvals"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_tool_approvals_conversation_id", ondelete="CASCADE"
        ),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("conversation_id", ID),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("completed_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tasks_user_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_tasks_conversation_id", ondelete="SET NULL"
        ),
    )
    op.create_index("ix_tasks_user_id_id", "tasks", ["user_id", "id"])
    op.create_index("ix_tasks_conversation_id", "tasks", ["conversation_id"])


def downgrade() -> None:
    for table in ("tasks", "tool_approvals", "tool_calls"):
        op.drop_table(table)
    op.execute("DELETE FROM conversation_events WHERE kind = 'ToolApprovalRequested'")
    op.drop_column("conversation_events", "tool_call_id")
    op.execute("UPDATE replies SET status = 'QUEUED' WHERE status = 'AWAITING_APPROVAL'")
    with op.batch_alter_table("replies") as replies:
        replies.alter_column("status", existing_type=sa.String(24), type_=sa.String(16), existing_nullable=False)
