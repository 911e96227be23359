"""The fence: who may still write for a reply. Nothing here knows what is written."""

from typing import Any

from sqlalchemy import Select, and_, bindparam, select

from domain.replies import ReplyStatus
from persistence.tables import Id, replies, workers


def leases() -> Select[*tuple[Any, ...]]:
    """The leases of the owner `owner`, if it beats; the lock on the heartbeat is what a takeover waits for."""
    beating = select(workers.c.id).where(workers.c.id == bindparam("owner", type_=Id))
    beats = beating.with_for_update(read=True, key_share=True).cte("beats")
    ours = and_(replies.c.owner == beats.c.id, replies.c.status == ReplyStatus.STREAMING.value)
    return select(replies.c.id, replies.c.attempt, replies.c.stop_requested).join(beats, ours)
