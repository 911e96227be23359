"""What happened to users' conversations: remembered in the unit of work, numbered and stored right before its commit.

The number comes from the user's row, whose lock lasts until the commit: of one user's events a later number never
commits before an earlier one, so a reader that goes on from a number misses nothing. The lock is taken last, of
several users in the order of their ids: so it is held shortly, and no two transactions wait for each other. What is put
down first is told in the message of the commit, so that one user's lock is held over no round trip. Nothing here knows
who reads.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    column,
    delete,
    func,
    insert,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from domain.conversations import Change, ConversationEvent
from persistence.connection import AnyRow, Connection, unnested
from persistence.tables import Id, Instant, conversation_events, users

SWEPT_AT_ONCE = 50_000
Remembered = tuple[str, Change, str, str | None, str | None]
"""A user, and what happened to which conversation, message and tool call."""
STORED = ("user_id", "place", "kind", "conversation_id", "message_id", "tool_call_id")


class SqlFeed:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._remembered: dict[Remembered, None] = {}
        self._skipping: set[str] = set()
        self._is_put_down = False

    def add(
        self,
        user_id: str,
        kind: Change,
        conversation_id: str,
        message_id: str | None = None,
        tool_call_id: str | None = None,
    ) -> None:
        self._remembered[user_id, kind, conversation_id, message_id, tool_call_id] = None

    def skip(self, user_id: str) -> None:
        """Remember that more happened than can be told: a number without an event, so readers must query anew."""
        self._skipping.add(user_id)

    async def write(self) -> None:
        """Number and store what was remembered. Nothing may follow in the transaction but its commit."""
        if self._is_put_down:
            self._is_put_down = False
            await self._connection.send(TOLD, {})
        if not self._remembered and not self._skipping:
            return
        if self._connection.is_sqlite:
            await self._write_in_two_steps(*self._taken())
        else:
            await self._connection.send(*await self.telling())
            await self.write()

    async def told(self) -> dict[str, list[Any]]:
        """What was remembered, as the parameters of TELLING: whoever takes it executes that, last of all."""
        rows, totals = await self._taken_in_order()
        arrays: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in STORED}
        return arrays | {"owner": list(totals), "total": list(totals.values())}

    async def telling(self) -> tuple[Insert | Select[*tuple[Any, ...]], dict[str, Any]]:
        """What tells of what was remembered, with its parameters: whoever takes it executes it, and then comes `write`.

        Where it may be all that there is to commit it tells at once, else it puts down what `write` tells last.
        """
        if not self._connection.has_begun:
            return TELLING, await self.told()
        self._is_put_down = True
        return PUTTING_DOWN, await self._put_down()

    async def _put_down(self) -> dict[str, str]:
        rows, totals = await self._taken_in_order()
        owners = [{"owner": owner, "total": total} for owner, total in totals.items()]
        return {"put_owners": json.dumps(owners), "put_rows": json.dumps(rows)}

    async def _taken_in_order(self) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """For statements that may lock several users in any order."""
        rows, totals = self._taken()
        if len(totals) > 1:
            await self._hold(list(totals))
        return rows, totals

    def _taken(self) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The rows, and how many numbers each user needs."""
        totals = dict.fromkeys(self._skipping, 1)
        rows = [_row(event, totals) for event in self._remembered]
        self._remembered.clear()
        self._skipping.clear()
        return rows, totals

    async def newest(self, user_id: str) -> int:
        query = select(users.c.event_seq).where(users.c.id == user_id)
        return (await self._connection.execute(query)).scalar_one_or_none() or 0

    async def positions(self, user_ids: Sequence[str]) -> dict[str, int]:
        query = select(users.c.id, users.c.event_seq).where(self._connection.among(users.c.id, user_ids))
        return {row.id: row.event_seq for row in (await self._connection.execute(query)).all()}

    async def after(self, user_id: str, seq: int, limit: int) -> tuple[int, list[ConversationEvent]]:
        theirs = and_(conversation_events.c.user_id == user_id, conversation_events.c.seq > seq)
        later = select(conversation_events).where(theirs).order_by(conversation_events.c.seq).limit(limit).subquery()
        query = select(users.c.event_seq, later).outerjoin(later, later.c.user_id == users.c.id)
        rows = (await self._connection.execute(query.where(users.c.id == user_id).order_by(later.c.seq))).all()
        return (rows[0].event_seq if rows else 0), [_event(row) for row in rows if row.seq is not None]

    async def sweep(self, age: timedelta) -> None:
        key = (conversation_events.c.user_id, conversation_events.c.seq)
        old = select(*key).where(conversation_events.c.at <= self._connection.now(age))
        old = old.order_by(conversation_events.c.at).limit(SWEPT_AT_ONCE).with_for_update(skip_locked=True)
        gone = delete(conversation_events).where(tuple_(*key).in_(select(old.cte("old"))))
        await self._connection.execute(gone)

    async def _hold(self, user_ids: Sequence[str]) -> None:
        """Lock several users in the order of their ids, which an UPDATE alone does not keep to.

        Not in the statement that raises the counters: with its older snapshot that would lock a row's new version
        first and its old one second, in a circle with those who come along the other way.
        """
        query = select(users.c.id).where(self._connection.among(users.c.id, user_ids)).order_by(users.c.id)
        await self._connection.execute(query.with_for_update(key_share=True))

    async def _write_in_two_steps(self, rows: list[dict[str, Any]], totals: Mapping[str, int]) -> None:
        """With nothing to wait for, as nobody else writes."""
        if rows:
            given = [[row[name] for name in STORED] for row in rows]
            await self._connection.send(_STORING, {"happened": given, "at": datetime.now(UTC)})
        await self._connection.send(_RAISING, {"totals": dict(totals)})


def _row(event: Remembered, totals: dict[str, int]) -> dict[str, Any]:
    """An event with its place among those of its user, instead of the number it will have; `totals` counts them."""
    user_id, kind, conversation_id, message_id, tool_call_id = event
    totals[user_id] = place = totals.get(user_id, 0) + 1
    ids = {"conversation_id": conversation_id, "message_id": message_id, "tool_call_id": tool_call_id}
    return {"user_id": user_id, "place": place, "kind": kind.value} | ids


def _event(row: AnyRow) -> ConversationEvent:
    change = Change(row.kind)
    return ConversationEvent(row.seq, row.at, change, row.conversation_id, row.message_id, row.tool_call_id)


def _storing() -> Insert:
    """SQLite's: store any number of events with the numbers that follow on their users'."""
    happened = func.json_each(bindparam("happened", type_=JSON)).table_valued("value")
    user_id, place, *others = (func.json_extract(happened.c.value, f"$[{place}]") for place in range(len(STORED)))
    rows = select(users.c.id, users.c.event_seq + place, *others, bindparam("at", type_=Instant))
    return insert(conversation_events).from_select(_COLUMNS, rows.join_from(happened, users, users.c.id == user_id))


def _raising() -> Update:
    """SQLite's, right after that: raise the counters of any number of users."""
    totals = func.json_each(bindparam("totals", type_=JSON)).table_valued("key", column("value", BigInteger))
    raised = users.c.event_seq + totals.c.value
    return update(users).where(users.c.id == totals.c.key).values(event_seq=raised)


def _telling(given: TableValuedAlias, happened: TableValuedAlias) -> postgresql.Insert:
    """Raise the counters of any number of users, and store any number of events with the numbers that these give."""
    moved = (
        update(users)
        .where(users.c.id == given.c.owner)
        .values(event_seq=users.c.event_seq + given.c.total)
        .returning(users.c.id, (users.c.event_seq - given.c.total).label("before"))
        .cte("moved")
    )
    rows = select(
        happened.c.user_id,
        moved.c.before + happened.c.place,
        happened.c.kind,
        happened.c.conversation_id,
        happened.c.message_id,
        happened.c.tool_call_id,
        func.clock_timestamp(),
    ).join(moved, moved.c.id == happened.c.user_id)
    return postgresql.insert(conversation_events).from_select(_COLUMNS, rows)


def _put_down(setting: str, columns: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """What PUTTING_DOWN has put into a setting, as a table."""
    rows = func.jsonb_to_recordset(cast(func.current_setting(literal_column(f"'{setting}'")), postgresql.JSONB))
    return rows.table_valued(*(column(name, kind) for name, kind in columns.items())).render_derived(with_types=True)


_COLUMNS = ["user_id", "seq", "kind", "conversation_id", "message_id", "tool_call_id", "at"]
_STORING = _storing()
_RAISING = _raising()
_OWNERS: dict[str, TypeEngine[Any]] = {"owner": Id(), "total": BigInteger()}
_HAPPENED: dict[str, TypeEngine[Any]] = {
    **{"user_id": Id(), "place": BigInteger(), "kind": Text()},
    **{"conversation_id": Id(), "message_id": Id(), "tool_call_id": Id()},
}
TELLING = _telling(unnested("given", "", **_OWNERS), unnested("happened", "", **_HAPPENED))
"""Numbers and stores what is `told`, on PostgreSQL."""
PUT_OWNERS, PUT_ROWS = "tertulia.owners", "tertulia.rows"
"""Settings of a transaction."""
PUTTING_DOWN = select(
    func.set_config(PUT_OWNERS, bindparam("put_owners", type_=Text), true()),
    func.set_config(PUT_ROWS, bindparam("put_rows", type_=Text), true()),
)
TOLD = _telling(_put_down(PUT_OWNERS, _OWNERS), _put_down(PUT_ROWS, _HAPPENED))
"""Numbers and stores what was `put_down` in the same transaction. Without parameters: so it goes out with the commit,
and nobody waits for a user's row while our COMMIT is on its way."""
