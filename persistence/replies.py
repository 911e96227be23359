"""Replies: rows <-> values, queueing, claiming and stopping. Locks: see `persistence/conversations.py`."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from domain.conversations import Change
from domain.events import LoggedEvent, StatusChanged
from domain.ports import Clock
from domain.replies import MOVES, Held, Lease, Progress, Reply, ReplyStatus
from persistence.connection import AnyRow, Connection, listed, unnested
from persistence.conversations import hold, settings_from_json, settings_to_json
from persistence.endings import stop_in_queue
from persistence.events import EventRow, append_events, event_to_row
from persistence.feed import SqlFeed
from persistence.tables import (
    Id,
    Instant,
    conversations,
    messages,
    replies,
    reply_events,
    unsettled,
    workers,
)

WAITING = (ReplyStatus.QUEUED, ReplyStatus.AWAITING_APPROVAL)
"""Nobody writes them, so whoever wants them to stop ends them."""


def lease_from(row: AnyRow, attempt: int, owner: str, next_seq: int) -> Lease:
    """A lease from a row of `with_user`."""
    return Lease(
        reply_id=row.id,
        conversation_id=row.conversation_id,
        user_id=row.user_id,
        attempt=attempt,
        owner=owner,
        next_seq=next_seq,
        settings=settings_from_json(row.settings),
        instruction=row.instruction,
        rescues=row.rescues,
        stop_requested=row.stop_requested,
        reserved_tokens=row.reserved_tokens,
    )


class SqlReplies:
    def __init__(self, connection: Connection, clock: Clock, feed: SqlFeed) -> None:
        self._connection = connection
        self._clock = clock
        self._feed = feed

    async def add(self, reply: Reply, reserved_tokens: int = 0) -> None:
        user = select(conversations.c.user_id).where(conversations.c.id == reply.conversation_id)
        await self._connection.execute(
            insert(replies).values(
                id=reply.id,
                user_id=user.scalar_subquery(),
                reserved_tokens=reserved_tokens,
                conversation_id=reply.conversation_id,
                status=reply.status.value,
                settings=settings_to_json(reply.settings),
                instruction=reply.instruction,
                behind_id=reply.behind_id,
                attempt=reply.attempt,
                rescues=reply.rescues,
                requests=reply.requests,
                stop_requested=reply.stop_requested,
                queued_at=reply.queued_at,
            )
        )

    async def unsettled(self, *conversation_ids: str) -> list[str]:
        theirs = self._connection.among(replies.c.conversation_id, conversation_ids)
        query = select(replies.c.id).where(theirs, unsettled(replies.c.status))
        return list((await self._connection.execute(query.order_by(replies.c.id))).scalars())

    async def queued(self) -> int:
        query = select(func.count()).select_from(replies).where(replies.c.status == ReplyStatus.QUEUED.value)
        return int((await self._connection.execute(query)).scalar_one())

    async def progress(self, reply_id: str) -> Progress | None:
        rows = await self._connection.fetch(_PROGRESS, {"reply": reply_id})
        return Progress(ReplyStatus(rows[0].status), rows[0].seq) if rows else None

    async def unsettled_of(self, user_id: str) -> list[str]:
        await hold(self._connection, conversations.c.user_id == user_id)
        open_ones = with_user().where(conversations.c.user_id == user_id, unsettled(replies.c.status))
        query = open_ones.with_only_columns(replies.c.id, maintain_column_froms=True)
        return list((await self._connection.execute(query.order_by(replies.c.id))).scalars())

    async def unsettled_above(self, parent_id: str | None) -> list[str]:
        if parent_id is None:
            return []
        return [row.id for row in await self._connection.fetch(_UNSETTLED_ABOVE, {"message_id": parent_id})]

    async def request_stop(self, reply_id: str) -> ReplyStatus | None:
        conversation = select(replies.c.conversation_id).where(_is(reply_id)).scalar_subquery()
        await hold(self._connection, conversations.c.id == conversation)
        query = with_user().where(_is(reply_id)).with_for_update(key_share=True, of=replies)
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            return None
        status = ReplyStatus(row.status)
        if status in WAITING:
            await stop_in_queue(self._connection, row, self._clock.now())
            self._feed.add(row.user_id, Change.MESSAGE_UPDATED, row.conversation_id, reply_id)
        elif ReplyStatus.STOPPED in MOVES[status]:
            await self._connection.execute(update(replies).where(_is(reply_id)).values(stop_requested=True))
        return status

    async def claimable(self) -> bool:
        return bool(await self._connection.fetch(_ANY_CLAIMABLE, {}))

    async def claim(self, owner: str, limit: int) -> list[Lease]:
        given = {"owner": owner, "most": limit, "now": self._clock.now()}
        claimed = await (self._claim_alone if self._connection.is_sqlite else self._claim)(given)
        leases = [lease_from(row, row.attempt, owner, seq + 2) for row, seq in claimed]
        for lease in leases:
            self._feed.add(lease.user_id, Change.MESSAGE_UPDATED, lease.conversation_id, lease.reply_id)
        return leases

    async def _claim(self, given: Mapping[str, Any]) -> list[tuple[AnyRow, int]]:
        """What is taken, and the number of the last event before. That is asked for with a snapshot of its own: what
        was waited for may have got more events meanwhile."""
        rows = sorted(await self._connection.fetch(_CLAIM, given), key=lambda row: (row.queued_at, row.id))
        if not rows:
            return []
        begun = {"taken_id": [row.id for row in rows], "taken_attempt": [row.attempt for row in rows]}
        newest = {row.reply_id: row.seq - 1 for row in await self._connection.fetch(_BEGIN, begun)}
        return [(row, newest[row.id]) for row in rows]

    async def _claim_alone(self, given: Mapping[str, Any]) -> list[tuple[AnyRow, int]]:
        """On SQLite, where nobody else writes meanwhile."""
        rows = await self._connection.fetch(_CLAIMABLE, given)
        if rows:
            await self._connection.send(_TAKE, {**given, "ids": [row.id for row in rows]})
            await append_events(self._connection, [_begun(row) for row in rows])
        return [(row, row.newest) for row in rows]

    async def held(self, owner: str) -> list[Held]:
        return [Held(*row) for row in await self._connection.fetch(_STREAMING, {"owner": owner})]


def _begun(row: AnyRow) -> EventRow:
    return event_to_row(row.id, LoggedEvent(row.newest + 1, row.attempt, StatusChanged(ReplyStatus.STREAMING)))


def with_user() -> Select[*tuple[Any, ...]]:
    """Replies, with the user whose conversation each is in as `user_id`: that may have been given away meanwhile."""
    own = (column for column in replies.c if column.name != "user_id")
    user = conversations.c.user_id
    return select(*own, user).join(conversations, conversations.c.id == replies.c.conversation_id)


def _waits_for_nobody() -> ColumnElement[bool]:
    ahead = replies.alias("ahead")
    blocked = select(literal(1)).where(ahead.c.id == replies.c.behind_id, unsettled(ahead.c.status)).exists()
    return and_(replies.c.status == literal_column("'QUEUED'"), or_(replies.c.behind_id.is_(None), ~blocked))


def _claimable() -> Select[*tuple[Any, ...]]:
    """What the process `owner` may begin, if it beats, with the numbers of their next attempts."""
    beating = select(literal(1)).where(workers.c.id == bindparam("owner", type_=Id)).exists()
    return (
        with_user()
        .with_only_columns(*_LEASED, conversations.c.user_id, maintain_column_froms=True)
        .add_columns((replies.c.attempt + 1).label("attempt"))
        .where(_waits_for_nobody(), beating)
        .order_by(replies.c.queued_at, replies.c.id)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(key_share=True, skip_locked=True, of=replies)
    )


_LEASED = tuple(
    replies.c[name]
    for name in (
        *("id", "conversation_id", "settings", "instruction", "rescues", "stop_requested", "reserved_tokens"),
        "queued_at",
    )
)


def _newest(reply_id: ColumnElement[str]) -> ColumnElement[int]:
    """The number of a reply's last event."""
    newest = select(func.max(reply_events.c.seq)).where(reply_events.c.reply_id == reply_id)
    return func.coalesce(newest.scalar_subquery(), 0)


def _take() -> Update:
    return update(replies).values(
        status=ReplyStatus.STREAMING.value,
        owner=bindparam("owner", type_=Id),
        attempt=replies.c.attempt + 1,
        behind_id=None,
        started_at=func.coalesce(replies.c.started_at, bindparam("now", type_=Instant)),
    )


def _claim() -> Any:  # noqa: ANN401  a statement
    """PostgreSQL's: choose and take."""
    chosen = _claimable().cte("chosen")
    return _take().where(replies.c.id == chosen.c.id).returning(*chosen.c)


def _begin() -> Any:  # noqa: ANN401  a statement
    """PostgreSQL's: append that they have begun; with which numbers."""
    rows = unnested("taken", "taken_", id=Id(), attempt=Integer())
    kind: ColumnElement[str] = literal_column("'status'")
    status: ColumnElement[str] = literal_column("'STREAMING'")
    begun = select(rows.c.id, _newest(rows.c.id) + 1, rows.c.attempt, kind, status)
    columns = ["reply_id", "seq", "attempt", "kind", "text"]
    append = postgresql.insert(reply_events).from_select(columns, begun)
    return append.returning(reply_events.c.reply_id, reply_events.c.seq)


_PROGRESS = select(replies.c.status, func.coalesce(replies.c.last_seq, _newest(replies.c.id)).label("seq")).where(
    replies.c.id == bindparam("reply", type_=Id)
)
_STREAMING = select(replies.c.id, replies.c.attempt, replies.c.stop_requested).where(
    replies.c.status == literal_column("'STREAMING'"), replies.c.owner == bindparam("owner", type_=Id)
)
_ANY_CLAIMABLE = select(replies.c.id).where(_waits_for_nobody()).limit(literal_column("1"))
_CLAIMABLE = _claimable().add_columns(_newest(replies.c.id).label("newest"))
_TAKE = _take().where(listed(replies.c.id, "ids", is_sqlite=True))
_CLAIM = _claim()
_BEGIN = _begin()


def unsettled_above(message_id: BindParameter[str]) -> Select[*tuple[Any, ...]]:
    """From the message up to the first reply, then from each reply to the one that it waited for.

    No other can be unsettled: a reply is claimed, and then waits for nobody, when all above it are settled. Nothing is
    walked in a conversation where all are: it may have begun with a long history that has no replies.
    """
    busy = replies.alias("busy")
    open_here = busy.c.conversation_id == messages.c.conversation_id, unsettled(busy.c.status)
    at = messages.outerjoin(replies, replies.c.id == messages.c.id)
    here = select(messages.c.parent_id, replies.c.id.label("reply_id"))
    start = here.select_from(at).where(messages.c.id == message_id)
    walk = start.where(select(literal(1)).where(*open_here).exists()).cte("walk", recursive=True)
    above = at.join(walk, messages.c.id == walk.c.parent_id)
    walk = walk.union_all(here.select_from(above).where(walk.c.reply_id.is_(None)))
    made = select(replies.c.id, replies.c.status, replies.c.behind_id)
    nearest = made.add_columns(literal(0).label("steps")).join(walk, walk.c.reply_id == replies.c.id)
    chain = nearest.cte("chain", recursive=True)
    ahead = made.add_columns(chain.c.steps + 1).join(chain, replies.c.id == chain.c.behind_id)
    chain = chain.union_all(ahead)
    return select(chain.c.id).where(unsettled(chain.c.status)).order_by(chain.c.steps)


_UNSETTLED_ABOVE = unsettled_above(bindparam("message_id", type_=Id))


def _is(reply_id: str) -> ColumnElement[bool]:
    return replies.c.id == reply_id
