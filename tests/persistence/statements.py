"""Watches what is really sent to a database."""

from collections.abc import Iterator, Mapping
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

    own = Ready.arguments

    def noting(ready: Ready, values: Mapping[str, Any]) -> tuple[Any, ...]:
        given = own(ready, values)
        sent.append((ready.sql, given))
        return given

    event.listen(Engine, "before_cursor_execute", note)
    Ready.arguments = noting  # type: ignore[assignment,method-assign]
    try:
        yield sent
    finally:
        Ready.arguments = own  # type: ignore[method-assign]
        event.remove(Engine, "before_cursor_execute", note)
