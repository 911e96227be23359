"""Keyset pages: the order, the window and the flags are the same for every list. Nothing here knows a table."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Select, tuple_

from domain.conversations import Page, PageRequest

T = TypeVar("T")


def window(
    query: Select[*tuple[Any, ...]],
    request: PageRequest,
    key: Sequence[Column[Any]],
    position: Callable[[str], tuple[Any, ...]],
    *,
    descending: bool = False,
) -> Select[*tuple[Any, ...]]:
    """The rows of a page and one more, from the end that was asked for. `position` gives a cursor's place in `key`."""
    place = tuple_(*key)
    if request.after is not None:
        bound = position(request.after)
        query = query.where(place < bound if descending else place > bound)
    if request.before is not None:
        bound = position(request.before)
        query = query.where(place > bound if descending else place < bound)
    downwards = descending == (request.first is not None)
    return query.order_by(*(column.desc() if downwards else column.asc() for column in key)).limit(request.size + 1)


def page_of(found: Sequence[T], request: PageRequest) -> Page[T]:
    """The page from what `window` found."""
    kept, more = found[: request.size], len(found) > request.size
    before, after = request.before is not None, request.after is not None
    if request.first is not None:
        return Page(tuple(kept), has_next=more or before, has_previous=after)
    return Page(tuple(reversed(kept)), has_next=before, has_previous=more or after)
