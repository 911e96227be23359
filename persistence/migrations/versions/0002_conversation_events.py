"""What happened to a user's conversations, and the counter that numbers it.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = sa.String(48)


def upgrade() -> None:
    op.add_column("users", sa.Column("event_seq", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "conversation_events",
        sa.Column("user_id", ID, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("conversation_id", ID, nullable=False),
        sa.Column("message_id", ID),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "seq", name="pk_conversation_events"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_conversation_events_user_id", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_conversation_events_at", "conversation_events", ["at"])


def downgrade() -> None:
    op.drop_table("conversation_events")
    op.drop_column("users", "event_seq")
