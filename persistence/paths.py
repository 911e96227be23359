"""Walks along the tree of messages, upwards, as recursive queries. Nothing here knows what a message says.

A walk over a distance takes jumps: every message but the first names, beside its parent, one above it, `jump_steps`
further up, chosen so that any distance is about twice its logarithm in jumps and steps (E. W. Myers, "An applicative
random-access stack", 1983). A message without a jump, as an older server adds it, is passed by a step, and no jump
leads over it.
"""

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Insert,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    select,
)

from persistence.tables import Id, messages

NEXT = (messages.c.id, messages.c.parent_id)
LEAP = (*NEXT, messages.c.jump_id, messages.c.jump_steps)
LEAF = (
    messages.c.id == bindparam("leaf_id", type_=Id),
    messages.c.conversation_id == bindparam("conversation_id", type_=Id),
)


class Jump(NamedTuple):
    """What a message has beside its parent; all of it null under none."""

    end: ColumnElement[Any]
    steps: ColumnElement[Any]


def jump_under(parent_id: ColumnElement[str]) -> Jump:
    """Of a message under a stored one.

    Where the last two jumps above are equally long, the new one leads over both; else it is a step.
    """
    parent, before = messages.alias("parent"), messages.alias("before")
    above = parent.outerjoin(before, before.c.id == parent.c.jump_id)
    equal = parent.c.jump_steps == before.c.jump_steps
    end = select(case((equal, before.c.jump_id), else_=parent.c.id))
    length = select(case((equal, 1 + parent.c.jump_steps + before.c.jump_steps), else_=1))
    end, length = (each.select_from(above).where(parent.c.id == parent_id) for each in (end, length))
    return Jump(end.scalar_subquery(), length.scalar_subquery())


def jump_under_new(parent_id: ColumnElement[str], its: Jump) -> Jump:
    """Of a message under one that is stored in the same statement, with `its` jump."""
    before = messages.alias("before")
    there = before.c.id == its.end
    equal = its.steps == select(before.c.jump_steps).where(there).scalar_subquery()
    over = select(before.c.jump_id).where(there).scalar_subquery()
    return Jump(case((equal, over), else_=parent_id), case((equal, 1 + its.steps + its.steps), else_=1))


def adding() -> Insert:
    """A message with its jump. Its parent must be stored; `parent` is its id once more."""
    jump = jump_under(bindparam("parent", type_=Id))
    return insert(messages).values(jump_id=jump.end, jump_steps=jump.steps)


def is_on_path() -> Select[*tuple[Any, ...]]:
    """One row if the message `cursor` is the leaf or above it."""
    leaf, cursor = messages.c.id == bindparam("leaf_id"), messages.c.id == bindparam("cursor", type_=Id)
    distance = _depth(leaf, "from_leaf") - _depth(cursor, "from_cursor")
    walk = _up(select(*LEAP, distance.label("left")).where(*LEAF))
    return select(walk.c.id).where(walk.c.left == 0, walk.c.id == bindparam("cursor"))


@cache
def between(*, forward: bool, after: bool, before: bool) -> CTE:
    """A page of the path: `id`, and `n` counted from its newest end. It ends one after its `size`.

    The page of the first ones, if `forward`, or of the last ones, before or after the messages of these names if so.
    """
    end = LEAF
    if before:
        above = select(messages.c.parent_id).where(messages.c.id == bindparam("before", type_=Id))
        end = (messages.c.id == above.scalar_subquery(), LEAF[1])
    start = select(*NEXT, literal(1).label("n")).where(*end)
    if forward:
        top = _up(select(*LEAP, _beyond(end[0], after=after).label("left")).where(*end))
        start = select(top.c.id, top.c.parent_id, literal(1).label("n")).where(top.c.left == 0)
        end_id: ColumnElement[str] = top.c.id
    else:
        end_id = messages.c.id
    bound = bindparam("after", type_=Id)
    if after:
        start = start.where(end_id != bound)
    walk = start.cte("walk", recursive=True)
    step = select(*NEXT, walk.c.n + 1).join(walk, messages.c.id == walk.c.parent_id)
    step = step.where(walk.c.n <= bindparam("size", type_=Integer))
    return walk.union_all(step.where(messages.c.id != bound) if after else step)


def _beyond(end: ColumnElement[bool], *, after: bool) -> ColumnElement[int]:
    """How far the page's end is below the one that comes `size` after the first of the page; not less than none."""
    page = bindparam("size", type_=Integer)
    distance = _depth(end, "from_end") - page
    if after:
        distance = distance - _depth(messages.c.id == bindparam("after", type_=Id), "from_after") - 1
    return case((distance > 0, distance), else_=0)


def _up(start: Select[*tuple[Any, ...]]) -> CTE:
    """From a message up, `left` steps: the row with none left is where that ends."""
    walk = start.cte("up", recursive=True)
    leaps = walk.c.jump_steps <= walk.c.left
    above = case((leaps, walk.c.jump_id), else_=walk.c.parent_id)
    left = walk.c.left - case((leaps, walk.c.jump_steps), else_=1)
    return walk.union_all(select(*LEAP, left).join(walk, messages.c.id == above).where(walk.c.left > 0))


def _depth(start: ColumnElement[bool], name: str) -> ScalarSelect[int]:
    """The messages above that one."""
    walk = select(*LEAP, literal(0).label("steps")).where(start).cte(name, recursive=True)
    above = func.coalesce(walk.c.jump_id, walk.c.parent_id)
    steps = walk.c.steps + func.coalesce(walk.c.jump_steps, 1)
    walk = walk.union_all(select(*LEAP, steps).join(walk, messages.c.id == above))
    return select(func.max(walk.c.steps)).scalar_subquery()


_BUDGET = bindparam("token_budget", type_=BigInteger)
_OVERHEAD = bindparam("overhead", type_=Integer)


def newest_above() -> CTE:
    """What fits the budget: `id`, and `n` counted from below. The nearest message is always in it.

    A message without tokens has no text, so no prompt contains it and it costs nothing. The parameters: `message_id`,
    `token_budget` and `overhead`.
    """
    own = messages.c.id == bindparam("message_id", type_=Id)
    above = select(messages.c.parent_id).where(own).scalar_subquery()
    start = select(*NEXT, literal(1).label("n"), _cost().label("total")).where(messages.c.id == above)
    return _upwards(start)


def newest_with() -> CTE:
    """`newest_above` as it would be under a message that is not stored yet.

    The parameters: its `parent_id`, what it costs itself (`own_cost`), `token_budget` and `overhead`.
    """
    unstored = literal(None, Id).label("id"), bindparam("parent_id", type_=Id).label("parent_id")
    start = select(*unstored, literal(1).label("n"), bindparam("own_cost", type_=BigInteger).label("total"))
    return _upwards(start)


def _cost() -> ColumnElement[int]:
    return cast(case((messages.c.token_count > 0, messages.c.token_count + _OVERHEAD), else_=0), BigInteger)


def _upwards(start: Select[*tuple[Any, ...]]) -> CTE:
    cost = _cost()
    walk = start.cte("walk", recursive=True)
    step = select(*NEXT, walk.c.n + 1, walk.c.total + cost).join(walk, messages.c.id == walk.c.parent_id)
    return walk.union_all(step.where(walk.c.total + cost <= _BUDGET))
