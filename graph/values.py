"""JSON values in answers, which are counted like text."""

import orjson
from strawberry.scalars import JSON

from graph.context import Info


def shown_json(info: Info, value: object) -> JSON:
    """Raises GraphQLError when the answer gets too long."""
    if value is not None:
        info.context.count(len(orjson.dumps(value)))
    return JSON(value)
