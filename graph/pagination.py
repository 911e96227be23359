"""Relay's connections over keyset pages: arguments to a PageRequest, a Page to `pageInfo`."""

import strawberry

from domain.conversations import PageRequest
from domain.errors import InvalidInput
from graph.ids import decode_cursor

MAX_PAGE_SIZE = 100


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


def page_info(cursors: list[str], *, has_next: bool, has_previous: bool) -> PageInfo:
    return PageInfo(
        has_next_page=has_next,
        has_previous_page=has_previous,
        start_cursor=cursors[0] if cursors else None,
        end_cursor=cursors[-1] if cursors else None,
    )


def page_request(
    first: int | None,
    after: str | None,
    last: int | None,
    before: str | None,
    *,
    default: int,
    newest: bool = False,
) -> PageRequest:
    """Check Relay's arguments. With neither `first` nor `last`, `default` items: the last ones if `newest`."""
    if first is not None and last is not None:
        raise InvalidInput("Give either `first` or `last`, not both.", "first")
    if after is not None and before is not None:
        raise InvalidInput("Give either `after` or `before`, not both.", "after")
    for name, value in (("first", first), ("last", last)):
        if value is not None and not 0 < value <= MAX_PAGE_SIZE:
            raise InvalidInput(f"`{name}` must be between 1 and {MAX_PAGE_SIZE}.", name)
    if first is None and last is None:
        backward = before is not None or (newest and after is None)
        first, last = (None, default) if backward else (default, None)
    return PageRequest(first, decode_cursor(after, "after"), last, decode_cursor(before, "before"))
