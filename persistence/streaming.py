"""The reply log: fenced append, reading after a cursor.

The append is the fence: the statement that appends also locks the heartbeat of the owner until the transaction ends. A
takeover removes that heartbeat first, so it waits for a flush under way, and a flush after it stores nothing. Nothing
here knows who reads.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    func,
    lateral,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from domain.conversations import Change, MessagePart
from domain.events import LoggedEvent, PartAdded, ReplyEvent, TextDelta
from domain.ports import Clock
from domain.replies import Attempt, HandOver, Lease, Outcome, ReplyStatus
from domain.storage import FlushEntry, FlushReport
from persistence.budgets import SqlBudgets
from persistence.connection import Connection, listed, unnested
from persistence.endings import Ending, end_attempts
from persistence.events import (
    EventRow,
    append_events,
    event_arrays,
    event_from,
    event_rows,
    event_to_row,
    row_columns,
    rows_to_json,
)
from persistence.feed import SqlFeed
from persistence.fence import leases
from persistence.tables import Id, conversations, replies, reply_events

SWEPT_AT_ONCE = 500


Leases = dict[Attempt, bool]
"""Those that an owner has, and whether somebody wants each stopped."""


class _Standing(NamedTuple):
    """How a reply that is to end stands in the database, and whose it is by now."""

    id: str
    attempt: int
    owner: str | None
    status: str
    finish_reason: str | None
    error_code: str | None
    last_seq: int | None
    user_id: str


class SqlLog:
    def __init__(self, connection: Connection, clock: Clock, feed: SqlFeed, budgets: SqlBudgets) -> None:
        self._connection = connection
        self._clock = clock
        self._feed = feed
        self._budgets = budgets

    # ── writing ──

    async def flush(self, owner: str, entries: Sequence[FlushEntry]) -> FlushReport:
        """See Storage.flush. One statement, unless attempts end in it; then nothing may follow but the commit."""
        endings: list[Ending] = [(entry, entry.outcome) for entry in entries if entry.outcome is not None]
        if not endings:
            return _report(entries, await self._append(owner, entries), {})
        mine, ended = await self._hold(owner, endings)
        now_ending = [(entry, outcome) for entry, outcome in endings if entry.lease.key in mine]
        for entry, outcome in now_ending:
            self._ended(entry.lease, outcome, ended[entry.lease.reply_id].user_id)
        await self._budgets.write()
        rows = _rows([entry for entry in entries if entry.lease.key in mine])
        await end_attempts(self._connection, self._feed, rows, now_ending, self._clock.now())
        return _report(entries, mine, ended)

    async def settle(self, entry: FlushEntry) -> None:
        assert isinstance(entry.outcome, Outcome)
        await end_attempts(self._connection, None, _rows([entry]), [(entry, entry.outcome)], self._clock.now())
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

    async def _hold(self, owner: str, endings: Sequence[Ending]) -> tuple[Leases, Mapping[str, _Standing]]:
        """Lock the replies that end, after their conversations, and then the heartbeat.

        The leases that the owner has, and how those replies stand and whose they are by now. What is said of a lock
        that was waited for is newer than the rest, so it decides on those replies.
        """
        own = self._connection.is_sqlite
        talks = sorted({entry.lease.conversation_id for entry, _ in endings})
        given = {"owner": owner, "talks": talks, "ids": [entry.lease.reply_id for entry, _ in endings]}
        ((ended, held),) = await self._connection.fetch(_ENDING_BY_OURSELVES if own else _ENDING, given)
        found = {row[0]: _Standing(*row) for row in json.loads(ended)}
        streaming = ReplyStatus.STREAMING.value
        still = {(row.id, row.attempt) for row in found.values() if (row.owner, row.status) == (owner, streaming)}
        ids = set(given["ids"])
        mine = {key: stop for key, stop in _leases_from(held).items() if key[0] not in ids or key in still}
        return mine, found

    def _ended(self, lease: Lease, ended: Outcome | HandOver, user_id: str) -> None:
        """Who the reply was begun for pays; whose it is by now is told."""
        self._budgets.spend(lease.user_id, ended.usage)
        self._feed.add(user_id, Change.MESSAGE_UPDATED, lease.conversation_id, lease.reply_id)

    async def _append(self, owner: str, entries: Sequence[FlushEntry]) -> Leases:
        """Append what the owner may; the leases that it has, and whether somebody wants each stopped."""
        rows = _rows(entries)
        if self._connection.is_sqlite:
            await self._connection.send(_FENCED_APPEND_OF_JSON, {"owner": owner, "rows": rows_to_json(rows)})
            ((held,),) = await self._connection.fetch(_HELD, {"owner": owner})
            return _leases_from(held)
        found = await self._connection.fetch(_FENCED_APPEND, {"owner": owner, **event_arrays(rows)})
        return {(row.id, row.attempt): row.stop_requested for row in found}

    # ── reading ──

    async def after(self, reply_id: str, seq: int, limit: int) -> list[LoggedEvent]:
        rows = await self._connection.fetch(_AFTER, {"reply": reply_id, "position": seq, "most": limit})
        return [event_from(row) for row in rows]

    async def news(self, positions: Mapping[str, int], limit: int) -> dict[str, list[LoggedEvent]]:
        if self._connection.is_sqlite:
            rows = await self._connection.fetch(_NEWS_IN_JSON, {"asked": dict(positions)})
        else:
            values = {"asked_id": list(positions), "asked_seq": list(positions.values()), "most": limit}
            rows = await self._connection.fetch(_NEWS, values)
        found: dict[str, list[LoggedEvent]] = {}
        for row in rows:
            events = found.setdefault(row.id, [])
            if row.seq is not None:
                events.append(event_from(row))
        return found


_EVENT = tuple(column for column in reply_events.c if column.name != "reply_id")


def _fenced_append() -> Any:  # noqa: ANN401  a statement
    """Lock, fence, append and the stop flags in one round trip, for any number of rows: each column is an array."""
    mine = leases().cte("mine")
    rows = event_rows()
    allowed = select(*rows.c).join(mine, and_(mine.c.id == rows.c.reply_id, mine.c.attempt == rows.c.attempt))
    append = postgresql.insert(reply_events).from_select(list(reply_events.c), allowed).on_conflict_do_nothing()
    return select(mine).add_cte(append.cte("appended"))


def _news() -> Any:  # noqa: ANN401  a statement
    asked = unnested("asked", "asked_", id=Id(), seq=Integer())
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


def _fenced_append_of_json() -> Any:  # noqa: ANN401  a statement
    """SQLite's, which is followed by the question for the leases: with nobody else writing both are answered alike.

    Asked for each row: SQLite would join the leases the other way around, and look through all rows for each of them.
    """
    columns = row_columns()
    mine = leases().where(replies.c.id == columns[0], replies.c.attempt == columns[2])
    allowed = select(*columns).where(mine.exists())
    append = sqlite.insert(reply_events).from_select(list(reply_events.c), allowed)
    return append.on_conflict_do_nothing()


def _held() -> Select[*tuple[Any, ...]]:
    """The leases in one row, so that SQLite is asked for one."""
    mine = leases().subquery()
    return select(_json_of(mine, func.json_group_array, func.json_array))


_STANDS = tuple(replies.c[name] for name in _Standing._fields[:-1])


def _ending() -> Select[*tuple[Any, ...]]:
    """The replies `ids`, held after their conversations `talks`, and the leases, each as one JSON.

    Whose a conversation is comes from the row that was locked: it may have been given away while that was waited for.
    """
    talks = listed(conversations.c.id, "talks", is_sqlite=False)
    held = select(conversations.c.id, conversations.c.user_id).where(talks).order_by(conversations.c.id)
    talk = held.with_for_update(key_share=True).cte("talk")
    all_held = select(func.count()).select_from(talk).scalar_subquery() >= 0  # all of them before the first reply
    theirs = replies.join(talk, talk.c.id == replies.c.conversation_id)
    these = listed(replies.c.id, "ids", is_sqlite=False)
    ended = select(*_STANDS, talk.c.user_id).select_from(theirs).where(all_held, these).order_by(replies.c.id)
    standing = ended.with_for_update(key_share=True, of=replies).cte("standing")
    mine = leases().cte("mine")
    return select(*(_json_of(each, func.json_agg, func.json_build_array) for each in (standing, mine)))


def _ending_by_ourselves() -> Select[*tuple[Any, ...]]:
    """SQLite's, where nothing is locked."""
    theirs = replies.join(conversations, conversations.c.id == replies.c.conversation_id)
    these = listed(replies.c.id, "ids", is_sqlite=True)
    standing = select(*_STANDS, conversations.c.user_id).select_from(theirs).where(these).subquery()
    mine = leases().subquery()
    return select(*(_json_of(each, func.json_group_array, func.json_array) for each in (standing, mine)))


def _json_of(rows: FromClause, array: Any, row: Any) -> ColumnElement[str]:  # noqa: ANN401  functions of a dialect
    """All rows in one value, as text."""
    found = func.coalesce(cast(array(row(*rows.c)), Text), "[]")
    return select(found).select_from(rows).scalar_subquery()


_AFTER = (
    select(reply_events)
    .where(reply_events.c.reply_id == bindparam("reply", type_=Id), reply_events.c.seq > bindparam("position"))
    .order_by(reply_events.c.seq)
    .limit(bindparam("most"))
)
_HELD = _held()
_ENDING = _ending()
_ENDING_BY_OURSELVES = _ending_by_ourselves()
_FENCED_APPEND = _fenced_append()
_FENCED_APPEND_OF_JSON = _fenced_append_of_json()
_NEWS = _news()
_NEWS_IN_JSON = _news_in_json()


def _beginning(part: MessagePart) -> tuple[ReplyEvent, ...]:
    """A call has ended, as its reply has, so it comes as it is."""
    if part.call is not None:
        return (PartAdded(part.index, part.kind, part.call),)
    return PartAdded(part.index, part.kind), TextDelta(part.index, part.text)


def _rows(entries: Sequence[FlushEntry]) -> list[EventRow]:
    return [event_to_row(entry.lease.reply_id, logged) for entry in entries for logged in entry.events]


def _leases_from(held: str) -> Leases:
    return {(id_, attempt): bool(stop) for id_, attempt, stop in json.loads(held)}


def _report(entries: Sequence[FlushEntry], mine: Leases, ended: Mapping[str, _Standing]) -> FlushReport:
    return FlushReport(
        tuple(entry.lease.key in mine or _ended_by(entry, ended.get(entry.lease.reply_id)) for entry in entries),
        frozenset(key for key, stop_requested in mine.items() if stop_requested),
    )


def _ended_by(entry: FlushEntry, row: _Standing | None) -> bool:
    """Whether it was this very entry, sent before, that ended the attempt."""
    outcome = entry.outcome
    if row is None or row.attempt != entry.lease.attempt or not isinstance(outcome, Outcome):
        return False
    error = None if outcome.error is None else outcome.error.code.value
    meant = (outcome.status.value, outcome.finish_reason.value, error, entry.events[-1].seq)
    return meant == (row.status, row.finish_reason, row.error_code, row.last_seq)
