"""The reply log: fenced append, reading after a cursor.

The append is the fence: the statement that appends also locks the heartbeat of the owner until the transaction ends. A
takeover removes that heartbeat first, so it waits for a flush under way, and a flush after it stores nothing. Nothing
here knows who reads.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Integer,
    Select,
    and_,
    bindparam,
    column,
    delete,
    func,
    lateral,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql

from domain.conversations import Change, MessagePart
from domain.events import LoggedEvent, PartAdded, ReplyEvent, TextDelta
from domain.ports import Clock
from domain.replies import Attempt, HandOver, Lease, Outcome
from domain.storage import FlushEntry, FlushReport
from persistence.budgets import SqlBudgets
from persistence.connection import AnyRow, Connection
from persistence.conversations import hold
from persistence.endings import Ending, end_attempts
from persistence.events import EVENT_ARRAYS, append_events, arrays_of, event_from, event_to_row
from persistence.feed import SqlFeed
from persistence.fence import leases
from persistence.replies import with_user
from persistence.tables import Id, conversations, replies, reply_events

SWEPT_AT_ONCE = 500


class SqlLog:
    def __init__(self, connection: Connection, clock: Clock, feed: SqlFeed, budgets: SqlBudgets) -> None:
        self._connection = connection
        self._clock = clock
        self._feed = feed
        self._budgets = budgets

    # ── writing ──

    async def flush(self, owner: str, entries: Sequence[FlushEntry]) -> FlushReport:
        """See Storage.flush. One statement, unless attempts end in it."""
        endings: list[Ending] = [(entry, entry.outcome) for entry in entries if entry.outcome is not None]
        ended = await self._hold(endings)
        mine = await self._append(owner, entries)
        now_ending = [(entry, outcome) for entry, outcome in endings if entry.lease.key in mine]
        await end_attempts(self._connection, now_ending, self._clock.now())
        for entry, outcome in now_ending:
            self._ended(entry.lease, outcome, ended[entry.lease.reply_id].user_id)
        return FlushReport(
            tuple(entry.lease.key in mine or _ended_by(entry, ended.get(entry.lease.reply_id)) for entry in entries),
            frozenset(key for key, stop_requested in mine.items() if stop_requested),
        )

    async def settle(self, entry: FlushEntry) -> None:
        assert isinstance(entry.outcome, Outcome)
        await append_events(self._connection, [event_to_row(entry.lease.reply_id, e) for e in entry.events])
        await end_attempts(self._connection, [(entry, entry.outcome)], self._clock.now())
        self._ended(entry.lease, entry.outcome, entry.lease.user_id)

    async def begin(self, reply_id: str, parts: Sequence[MessagePart]) -> None:
        begun = [event for part in parts for event in _beginning(part)]
        rows = [event_to_row(reply_id, LoggedEvent(seq, 0, event)) for seq, event in enumerate(begun, 1)]
        await append_events(self._connection, rows)

    async def sweep(self, finished_before: datetime) -> int:
        ended = select(replies.c.id).where(~replies.c.swept, replies.c.finished_at < finished_before)
        query = ended.limit(SWEPT_AT_ONCE).with_for_update(key_share=True, skip_locked=True)
        ids = list((await self._connection.execute(query)).scalars())
        if not ids:
            return 0
        mine = self._connection.among(replies.c.id, ids)
        await self._connection.execute(update(replies).where(mine).values(swept=True))
        theirs = self._connection.among(reply_events.c.reply_id, ids)
        return (await self._connection.execute(delete(reply_events).where(theirs))).rowcount

    async def _hold(self, endings: Sequence[Ending]) -> Mapping[str, AnyRow]:
        """Lock the replies that end, after their conversations, and say how they stand and whose they are by now."""
        if not endings:
            return {}
        theirs = sorted({entry.lease.conversation_id for entry, _ in endings})
        await hold(self._connection, self._connection.among(conversations.c.id, theirs))
        ids = [entry.lease.reply_id for entry, _ in endings]
        query = with_user().with_only_columns(*_CHECKED, maintain_column_froms=True)
        query = query.where(self._connection.among(replies.c.id, ids)).order_by(replies.c.id)
        rows = (await self._connection.execute(query.with_for_update(key_share=True, of=replies))).all()
        return {row.id: row for row in rows}

    def _ended(self, lease: Lease, ended: Outcome | HandOver, user_id: str) -> None:
        """Who the reply was begun for pays; whose it is by now is told."""
        self._budgets.spend(lease.user_id, ended.usage)
        self._feed.add(user_id, Change.MESSAGE_UPDATED, lease.conversation_id, lease.reply_id)

    async def _append(self, owner: str, entries: Sequence[FlushEntry]) -> dict[Attempt, bool]:
        """Append what the owner may; the leases that it has, and whether somebody wants each stopped."""
        rows = [event_to_row(entry.lease.reply_id, logged) for entry in entries for logged in entry.events]
        if self._connection.is_sqlite:
            held = (await self._connection.execute(_HELD, {"owner": owner})).scalar_one()
            mine = {(id_, attempt): bool(stop) for id_, attempt, stop in json.loads(held)}
            await append_events(self._connection, [row for row in rows if (row[0], row[2]) in mine])
            return mine
        found = (await self._connection.execute(_FENCED_APPEND, {"owner": owner, **arrays_of(rows)})).all()
        return {(row.id, row.attempt): row.stop_requested for row in found}

    # ── reading ──

    async def after(self, reply_id: str, seq: int, limit: int) -> list[LoggedEvent]:
        query = select(reply_events).where(reply_events.c.reply_id == reply_id, reply_events.c.seq > seq)
        rows = (await self._connection.execute(query.order_by(reply_events.c.seq).limit(limit))).all()
        return [event_from(row) for row in rows]

    async def news(self, positions: Mapping[str, int], limit: int) -> dict[str, list[LoggedEvent]]:
        found: dict[str, list[LoggedEvent]] = {}
        if self._connection.is_sqlite:
            rows = await self._connection.execute(_NEWS_IN_JSON, {"asked": dict(positions)})
        else:
            values = {"ids": list(positions), "seqs": list(positions.values()), "most": limit}
            rows = await self._connection.execute(_NEWS, values)
        for row in rows:
            events = found.setdefault(row.id, [])
            if row.seq is not None:
                events.append(event_from(row))
        return found


_CHECKED = (
    *(replies.c.id, replies.c.attempt, replies.c.stop_requested),
    *(replies.c.status, replies.c.finish_reason, replies.c.error_code, replies.c.last_seq),
    conversations.c.user_id,
)
_EVENT = tuple(column for column in reply_events.c if column.name != "reply_id")


def _fenced_append() -> Any:  # noqa: ANN401  a statement
    """Lock, fence, append and the stop flags in one round trip, for any number of rows: each column is an array."""
    mine = leases().cte("mine")
    rows = func.unnest(*EVENT_ARRAYS).table_valued(*(column.name for column in reply_events.c)).render_derived()
    allowed = select(*rows.c).join(mine, and_(mine.c.id == rows.c.reply_id, mine.c.attempt == rows.c.attempt))
    append = postgresql.insert(reply_events).from_select(list(reply_events.c), allowed).on_conflict_do_nothing()
    return select(mine).add_cte(append.cte("appended"))


def _news() -> Any:  # noqa: ANN401  a statement
    arrays = bindparam("ids", type_=ARRAY(Id)), bindparam("seqs", type_=ARRAY(Integer))
    asked = func.unnest(*arrays).table_valued("id", "seq", name="asked").render_derived()
    theirs = select(*_EVENT).where(reply_events.c.reply_id == asked.c.id, reply_events.c.seq > asked.c.seq)
    further = lateral(theirs.order_by(reply_events.c.seq).limit(bindparam("most")), "further")
    known = asked.join(replies, replies.c.id == asked.c.id).outerjoin(further, true())
    query = select(replies.c.id, *further.c).select_from(known).where(~replies.c.swept)
    return query.order_by(replies.c.id, further.c.seq)


def _news_in_json() -> Any:  # noqa: ANN401  a statement
    """SQLite's: the same for any number of replies, which are the keys of an object with their positions."""
    asked = func.json_each(bindparam("asked", type_=JSON)).table_valued(column("key", Id), column("value", Integer))
    theirs = and_(reply_events.c.reply_id == replies.c.id, reply_events.c.seq > asked.c.value)
    known = asked.join(replies, replies.c.id == asked.c.key).outerjoin(reply_events, theirs)
    query = select(replies.c.id, *_EVENT).select_from(known).where(~replies.c.swept)
    return query.order_by(replies.c.id, reply_events.c.seq)


def _held() -> Select[*tuple[Any, ...]]:
    """The leases in one row, so that SQLite is asked for one."""
    mine = leases().subquery()
    return select(func.json_group_array(func.json_array(*mine.c))).select_from(mine)


_HELD = _held()
_FENCED_APPEND = _fenced_append()
_NEWS = _news()
_NEWS_IN_JSON = _news_in_json()


def _beginning(part: MessagePart) -> tuple[ReplyEvent, ...]:
    """A call has ended, as its reply has, so it comes as it is."""
    if part.call is not None:
        return (PartAdded(part.index, part.kind, part.call),)
    return PartAdded(part.index, part.kind), TextDelta(part.index, part.text)


def _ended_by(entry: FlushEntry, row: AnyRow | None) -> bool:
    """Whether it was this very entry, sent before, that ended the attempt."""
    outcome = entry.outcome
    if row is None or row.attempt != entry.lease.attempt or not isinstance(outcome, Outcome):
        return False
    error = None if outcome.error is None else outcome.error.code.value
    meant = (outcome.status.value, outcome.finish_reason.value, error, entry.events[-1].seq)
    return meant == (row.status, row.finish_reason, row.error_code, row.last_seq)
