"""Walks along the tree of messages, upwards, as recursive queries. Nothing here knows what a message says."""

from typing import Any

from sqlalchemy import CTE, BigInteger, ColumnElement, Integer, Select, bindparam, case, cast, literal, select

from domain.conversations import PageRequest
from persistence.tables import Id, messages

Tokens = int | ColumnElement[int]
NEXT = (messages.c.id, messages.c.parent_id)


def is_on_path(conversation_id: str, leaf_id: str, message_id: str) -> Select[*tuple[Any, ...]]:
    """One row if the message is the leaf or above it."""
    leaf = select(*NEXT).where(messages.c.id == leaf_id, messages.c.conversation_id == conversation_id)
    walk = leaf.cte("walk", recursive=True)
    step = select(*NEXT).join(walk, messages.c.id == walk.c.parent_id).where(walk.c.id != message_id)
    walk = walk.union_all(step)
    return select(walk.c.id).where(walk.c.id == message_id)


def between(conversation_id: str, leaf_id: str, request: PageRequest) -> Select[*tuple[Any, ...]]:
    """Ids from the newest end of a page of the path upwards. A page of the last ones ends one after its size."""
    end = messages.c.id == leaf_id
    if request.before is not None:
        above = select(messages.c.parent_id).where(messages.c.id == request.before)
        end = messages.c.id == above.scalar_subquery()
    wanted = [] if request.after is None else [messages.c.id != request.after]
    start = select(*NEXT, literal(1).label("n")).where(end, messages.c.conversation_id == conversation_id, *wanted)
    walk = start.cte("walk", recursive=True)
    step = select(*NEXT, walk.c.n + 1).join(walk, messages.c.id == walk.c.parent_id).where(*wanted)
    if request.first is None:
        step = step.where(walk.c.n <= request.size)
    walk = walk.union_all(step)
    return select(walk.c.id).order_by(walk.c.n)


def newest_above(message_id: str, token_budget: int, overhead: int) -> CTE:
    """What fits the budget: `id`, and `n` counted from below. The nearest message is always in it.

    A message without tokens has no text, so no prompt contains it and it costs nothing.
    """
    above = select(messages.c.parent_id).where(messages.c.id == message_id).scalar_subquery()
    start = select(*NEXT, literal(1).label("n"), _cost(overhead).label("total")).where(messages.c.id == above)
    return _upwards(start, token_budget, overhead)


def newest_with() -> CTE:
    """`newest_above` as it would be under a message that is not stored yet.

    The parameters: its `parent_id`, what it costs itself (`own_cost`), `token_budget` and `overhead`.
    """
    unstored = literal(None, Id).label("id"), bindparam("parent_id", type_=Id).label("parent_id")
    start = select(*unstored, literal(1).label("n"), bindparam("own_cost", type_=BigInteger).label("total"))
    return _upwards(start, bindparam("token_budget", type_=BigInteger), bindparam("overhead", type_=Integer))


def _cost(overhead: Tokens) -> ColumnElement[int]:
    return cast(case((messages.c.token_count > 0, messages.c.token_count + overhead), else_=0), BigInteger)


def _upwards(start: Select[*tuple[Any, ...]], token_budget: Tokens, overhead: Tokens) -> CTE:
    cost = _cost(overhead)
    walk = start.cte("walk", recursive=True)
    step = select(*NEXT, walk.c.n + 1, walk.c.total + cost).join(walk, messages.c.id == walk.c.parent_id)
    return walk.union_all(step.where(walk.c.total + cost <= token_budget))
