"""Long conversations: jumps along the paths of messages, and indexes for what was looked for among all of them.

See `persistence/paths.py` for the rule of the jumps. What an older server adds beside a newer one has none.

Revision: 0005, after 0004
"""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ID = sa.String(48)
ROOT = sa.text("parent_id IS NULL")
CONVERSATIONS_AT_ONCE = 500
Jump = tuple[str | None, int | None]

conversations = sa.table("conversations", sa.column("id", ID))
messages = sa.table(
    "messages",
    sa.column("id", ID),
    sa.column("conversation_id", ID),
    sa.column("parent_id", ID),
    sa.column("jump_id", ID),
    sa.column("jump_steps", sa.Integer),
)


def upgrade() -> None:
    op.add_column("messages", sa.Column("jump_id", ID))
    op.add_column("messages", sa.Column("jump_steps", sa.Integer))
    _fill()
    op.create_index(
        "ix_messages_roots", "messages", ["conversation_id", "id"], sqlite_where=ROOT, postgresql_where=ROOT
    )
    op.create_index("ix_replies_conversation_id_status", "replies", ["conversation_id", "status"])
    op.drop_index("ix_replies_conversation_id", "replies")


def _fill() -> None:
    """Some conversations at a time, so that not all messages are in memory at once."""
    connection = op.get_bind()
    fill = (
        sa.update(messages)
        .where(messages.c.id == sa.bindparam("message"))
        .values(jump_id=sa.bindparam("end"), jump_steps=sa.bindparam("steps"))
    )
    everybody = list(connection.execute(sa.select(conversations.c.id)).scalars())
    for begin in range(0, len(everybody), CONVERSATIONS_AT_ONCE):
        some = everybody[begin : begin + CONVERSATIONS_AT_ONCE]
        query = sa.select(messages.c.id, messages.c.parent_id).where(messages.c.conversation_id.in_(some))
        parents = {row.id: row.parent_id for row in connection.execute(query)}
        found = [{"message": m, "end": end, "steps": steps} for m, (end, steps) in _jumps(parents) if end is not None]
        if found:
            connection.execute(fill, found)


def _jumps(parents: dict[str, str | None]) -> Iterator[tuple[str, Jump]]:
    """Parents before their children, whatever the order of their ids."""
    jumps: dict[str | None, Jump] = {None: (None, None)}
    for message in parents:
        way = [message]
        while (above := parents[way[-1]]) not in jumps:
            assert above is not None
            way.append(above)
        for each in reversed(way):
            if each not in jumps:
                jumps[each] = _jump(parents[each], jumps)
                yield each, jumps[each]


def _jump(parent: str | None, jumps: dict[str | None, Jump]) -> Jump:
    if parent is None:
        return None, None
    end, steps = jumps[parent]
    further, more = jumps[end]
    if steps is None or steps != more:
        return parent, 1
    return further, 1 + steps + more


def downgrade() -> None:
    op.create_index("ix_replies_conversation_id", "replies", ["conversation_id"])
    op.drop_index("ix_replies_conversation_id_status", "replies")
    op.drop_index("ix_messages_roots", "messages")
    op.drop_column("messages", "jump_steps")
    op.drop_column("messages", "jump_id")
