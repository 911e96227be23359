"""Events of a subscription that need no execution: their results written from a plan that is made once.

A plan is made from the same collected fields that normal execution would take, so fragments, aliases, `@skip` and
`@include` are as it has them. It exists only where an event's selected fields are strings and ids that the event
simply holds; for everything else normal execution answers. Knows nothing of what the events mean.
"""

from typing import Any, cast

import orjson
from graphql import GraphQLNonNull, GraphQLObjectType
from graphql.execution.collect_fields import FieldDetailsList, collect_fields
from strawberry.types import get_object_definition
from strawberry.types.base import StrawberryObjectDefinition

from graph.encoded import EncodedResult

PLAIN = ("String", "ID")


class Plan:
    """How the result of one kind of event is written: constant JSON with the event's own attributes between."""

    __slots__ = ("_attributes", "_end", "_openings")

    def __init__(self, openings: list[bytes], attributes: list[str], end: bytes) -> None:
        self._openings = openings
        self._attributes = attributes
        self._end = end

    def result(self, event: object) -> EncodedResult:
        written = [
            opening + orjson.dumps(getattr(event, attribute))
            for opening, attribute in zip(self._openings, self._attributes, strict=True)
        ]
        return EncodedResult(b"".join(written) + self._end)


class Planned:
    """Takes the place of the executor of one event."""

    __slots__ = ("_event", "_plan")

    def __init__(self, plan: Plan, event: object) -> None:
        self._plan = plan
        self._event = event

    def execute_operation(self, _serially: bool | None = None) -> EncodedResult:
        return self._plan.result(self._event)


def plan_for(executor: Any, kind: type) -> Plan | None:  # noqa: ANN401  an Executor of any kind of context
    """How `executor`'s subscription shows events of the Python type `kind`; None where that has to be executed."""
    definition = get_object_definition(kind)
    root = executor.schema.subscription_type
    object_type = None if definition is None else executor.schema.get_type(definition.name)
    if definition is None or root is None or not isinstance(object_type, GraphQLObjectType):
        return None
    collected = collect_fields(
        executor.schema,
        executor.fragments,
        executor.variable_values,
        root,
        executor.operation,
        executor.hide_suggestions,
    )
    if collected.new_defer_usages or len(collected.grouped_field_set) != 1:
        return None
    ((name, details),) = collected.grouped_field_set.items()
    selected = executor.collect_subfields(object_type, details)
    if selected.new_defer_usages or not selected.grouped_field_set:
        return None
    return _written(name, selected.grouped_field_set, definition, object_type)


def _written(
    root: str, selected: dict[str, FieldDetailsList], definition: StrawberryObjectDefinition, shown: GraphQLObjectType
) -> Plan | None:
    held = _held(definition, shown)
    constant, openings, attributes = b'{"data":{%b:' % orjson.dumps(root), [], []
    separator = b"{"
    for key, details in selected.items():
        field = details[0].node.name.value
        constant += separator + orjson.dumps(key) + b":"
        separator = b","
        if field == "__typename":
            constant += orjson.dumps(shown.name)
        elif field in held:
            openings.append(constant)
            attributes.append(held[field])
            constant = b""
        else:
            return None
    return Plan(openings, attributes, constant + b"}}}")


def _held(definition: StrawberryObjectDefinition, shown: GraphQLObjectType) -> dict[str, str]:
    """The fields that are attributes of an event as they are, by their names in the schema."""
    found = {}
    for name, field in shown.fields.items():
        source = cast("Any", field.extensions["strawberry-definition"])
        type_ = field.type.of_type if isinstance(field.type, GraphQLNonNull) else field.type
        if source.base_resolver is None and getattr(type_, "name", None) in PLAIN and source in definition.fields:
            found[name] = source.python_name
    return found
