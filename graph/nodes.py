"""The Node interface of Relay, and the scalars that the schema adds to GraphQL's own."""

from datetime import UTC, datetime

import strawberry


@strawberry.interface(description="Anything with an id that is unique everywhere.")
class Node:
    id: strawberry.ID


def _instant_to_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


def _instant_from_text(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("Give an instant as a string, e.g. 2026-01-31T12:00:00Z.")
    instant = datetime.fromisoformat(value)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


DATE_TIME = strawberry.scalar(
    name="DateTime",
    description="Instant in time, RFC 3339 with offset, always UTC on output.",
    specified_by_url="https://scalars.graphql.org/andimarek/date-time",
    serialize=_instant_to_text,
    parse_value=_instant_from_text,
)
