"""Budgets: what a user's live replies have reserved, and what was spent each day, in UTC by the clock of all processes.

A reservation is on the reply's own row, so whatever ends the reply ends it. What was spent is remembered in the unit
of work and stored right before its commit, of several users in the order of their ids: so no two transactions wait
for each other. Nothing here knows of limits.
"""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Date, ScalarSelect, case, cast, func, literal, select, update

from domain.account_storage import Use
from domain.accounts import LOCAL_USER_ID
from domain.replies import Lease, ReplyStatus, Usage
from persistence.connection import Connection
from persistence.tables import LIVE, replies, token_usage


class SqlBudgets:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._spent: dict[str, int] = {}

    async def use(self, user_id: str, without: str | None = None) -> Use:
        today = self._today()
        reserved = replies.c.reserved_tokens
        query = select(
            func.count().filter(~replies.c.stop_requested),
            _total(reserved if without is None else case((replies.c.id != without, reserved), else_=0)),
            _spent_since(user_id, today),
            _spent_since(user_id, self._first_of_month(today)),
            today,
        ).where(replies.c.user_id == user_id, LIVE)
        return Use(*(await self._connection.execute(query)).one())

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
        rows = [{"user_id": user_id, "tokens": tokens} for user_id, tokens in sorted(self._spent.items())]
        self._spent.clear()
        added = self._connection.insert(token_usage).values(day=self._today())
        total = token_usage.c.tokens + added.excluded.tokens
        upsert = added.on_conflict_do_update(index_elements=["user_id", "day"], set_={"tokens": total})
        await self._connection.execute(upsert, rows)

    def _today(self) -> ColumnElement[date]:
        if self._connection.is_sqlite:
            return literal(datetime.now(UTC).date(), Date())
        return cast(func.timezone("UTC", self._connection.now()), Date)

    def _first_of_month(self, today: ColumnElement[date]) -> ColumnElement[date]:
        if self._connection.is_sqlite:
            return literal(datetime.now(UTC).date().replace(day=1), Date())
        return cast(func.date_trunc("month", today), Date)


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def _spent_since(user_id: str, day: ColumnElement[date]) -> ScalarSelect[Any]:
    spent = select(_total(token_usage.c.tokens))
    return spent.where(token_usage.c.user_id == user_id, token_usage.c.day >= day).scalar_subquery()
