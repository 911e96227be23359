"""Watches what is really sent to a database."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

from persistence.connection import Ready

Sent = tuple[str, Any]


@contextmanager
def sent_statements() -> Iterator[list[Sent]]:
    """Statements with their parameters, in order; beginnings of transactions are left out.

    Those that are ready go past SQLAlchemy, right after their arguments were made.
    """
    sent: list[Sent] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            sent.append((statement, parameters))

    one, each = Ready.arguments, Ready.arguments_of_each

    def noting(ready: Ready, values: Mapping[str, Any]) -> tuple[Any, ...]:
        given = one(ready, values)
        sent.append((ready.sql, given))
        return given

    def noting_each(ready: Ready, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        given = each(ready, rows)
        sent.append((ready.sql, given))
        return given

    event.listen(Engine, "before_cursor_execute", note)
    Ready.arguments, Ready.arguments_of_each = noting, noting_each  # type: ignore[assignment,method-assign]
    try:
        yield sent
    finally:
        Ready.arguments, Ready.arguments_of_each = one, each  # type: ignore[method-assign]
        event.remove(Engine, "before_cursor_execute", note)
