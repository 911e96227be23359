"""Budgets: what a user's live replies have reserved, and what was spent each day, in UTC by the clock of all processes.

A reservation is on the reply's own row, so whatever ends the reply ends it. What was spent is remembered in the unit
of work and stored right before its commit, of several users in the order of their ids: so no two transactions wait
for each other. Nothing here knows of limits.
"""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Date,
    DateTime,
    ScalarSelect,
    Select,
    bindparam,
    case,
    cast,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from domain.account_storage import Use
from domain.accounts import LOCAL_USER_ID
from domain.replies import Lease, ReplyStatus, Usage
from persistence.connection import Connection, unnested
from persistence.tables import LIVE, Id, replies, token_usage


class SqlBudgets:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._spent: dict[str, int] = {}

    async def use(self, user_id: str, without: str | None = None) -> Use:
        given: dict[str, object] = {"of_user": user_id, "without": without or ""}
        if self._connection.is_sqlite:
            today = datetime.now(UTC).date()
            given |= {"today": today, "first": today.replace(day=1)}
        query = _USE_BY_OUR_CLOCK if self._connection.is_sqlite else _USE
        return Use(*(await self._connection.fetch(query, given))[0])

    async def reserve(self, lease: Lease, tokens: int) -> bool:
        attempt = (replies.c.id == lease.reply_id, replies.c.attempt == lease.attempt)
        mine = update(replies).where(*attempt, replies.c.status == ReplyStatus.STREAMING.value)
        raised = await self._connection.execute(mine.values(reserved_tokens=tokens, user_id=lease.user_id))
        return raised.rowcount == 1

    def spend(self, user_id: str, usage: Usage) -> None:
        """Remember it for `write`. The local user has no budget, and one row that every reply waits for."""
        if user_id != LOCAL_USER_ID and usage.total_tokens:
            self._spent[user_id] = self._spent.get(user_id, 0) + usage.total_tokens

    async def write(self) -> None:
        """Store what was remembered: one statement."""
        if not self._spent:
            return
        spent = dict(sorted(self._spent.items()))
        self._spent.clear()
        if self._connection.is_sqlite:
            await self._connection.send(_SPENDING_BY_OUR_CLOCK, {"spent": spent, "today": datetime.now(UTC).date()})
        else:
            await self._connection.send(_SPENDING, {"spender": list(spent), "tokens": list(spent.values())})


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def _spent_since(day: ColumnElement[date]) -> ScalarSelect[Any]:
    spent = select(_total(token_usage.c.tokens))
    theirs = token_usage.c.user_id == bindparam("of_user", type_=Id)
    return spent.where(theirs, token_usage.c.day >= day).scalar_subquery()


def _use(today: ColumnElement[date], first_of_month: ColumnElement[date]) -> Select[*tuple[Any, ...]]:
    """Of the user `of_user`, without the reservation of the reply `without`."""
    others = case((replies.c.id != bindparam("without", type_=Id), replies.c.reserved_tokens), else_=0)
    return select(
        func.count().filter(~replies.c.stop_requested),
        _total(others),
        _spent_since(today),
        _spent_since(first_of_month),
        today,
    ).where(replies.c.user_id == bindparam("of_user", type_=Id), LIVE)


_TODAY = cast(func.timezone("UTC", func.clock_timestamp(type_=DateTime(timezone=True))), Date)
_USE = _use(_TODAY, cast(func.date_trunc("month", _TODAY), Date))
_USE_BY_OUR_CLOCK = _use(bindparam("today", type_=Date()), bindparam("first", type_=Date()))


def _spending() -> Any:  # noqa: ANN401  a statement
    """In the order of the arrays."""
    spent = unnested("spent", spender=Id(), tokens=BigInteger())
    added = postgresql.insert(token_usage).from_select(_COLUMNS, select(spent.c.spender, _TODAY, spent.c.tokens))
    total = token_usage.c.tokens + added.excluded.tokens
    return added.on_conflict_do_update(index_elements=["user_id", "day"], set_={"tokens": total})


def _spending_by_our_clock() -> Any:  # noqa: ANN401  a statement
    spent = func.json_each(bindparam("spent", type_=JSON)).table_valued("key", "value")
    rows = select(spent.c.key, bindparam("today", type_=Date()), spent.c.value).where(true())
    added = sqlite.insert(token_usage).from_select(_COLUMNS, rows)
    total = token_usage.c.tokens + added.excluded.tokens
    return added.on_conflict_do_update(index_elements=["user_id", "day"], set_={"tokens": total})


_COLUMNS = ["user_id", "day", "tokens"]
_SPENDING = _spending()
_SPENDING_BY_OUR_CLOCK = _spending_by_our_clock()
