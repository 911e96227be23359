"""Objects and events that need no execution: how they are shown is worked out once per document, and then done.

A plan is made from the same collected fields that normal execution would take, so fragments, aliases, `@skip` and
`@include` are as it has them. It exists where the selected fields are attributes, or resolvers that await nothing and
take no arguments, down to the leaves. A value that is not plainly what the schema says (no value where there must be
one, another type, an error) raises in the plan, and normal execution shows it, with the errors that belong to it.
Knows nothing of what the objects mean.
"""

import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, cast

import orjson
from graphql import (
    GraphQLAbstractType,
    GraphQLField,
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    is_abstract_type,
    is_leaf_type,
)
from graphql.execution.collect_fields import FieldDetailsList, collect_fields
from strawberry.types import get_object_definition
from strawberry.types.field import StrawberryField

from graph.encoded import EncodedResult

TEXTS = ("String", "ID")
MAX_INT = 2**31


class Asker(NamedTuple):
    """All of `Info` that resolvers without arguments may use."""

    context: Any


class Unplanned(Exception):
    """This value is normal execution's to show."""


Show = Callable[[Any, Asker], Any]
"""What JSON has for a value, as normal execution would; raises anything where that would not be plain."""


class FlatPlan:
    """How an event is written that holds nothing but texts: constant JSON with its own attributes between."""

    __slots__ = ("_attributes", "_end", "_openings")

    def __init__(self, openings: list[bytes], attributes: list[str], end: bytes) -> None:
        self._openings = openings
        self._attributes = attributes
        self._end = end

    def result(self, event: object, _asker: Asker) -> EncodedResult:
        written = [
            opening + orjson.dumps(getattr(event, attribute))
            for opening, attribute in zip(self._openings, self._attributes, strict=True)
        ]
        return EncodedResult(b"".join(written) + self._end)


class DeepPlan:
    """How any other event is written: as the only field of the result."""

    __slots__ = ("_root", "_show")

    def __init__(self, root: str, show: Show) -> None:
        self._root = root
        self._show = show

    def result(self, event: object, asker: Asker) -> EncodedResult:
        """Raises anything where normal execution is needed."""
        return EncodedResult(orjson.dumps({"data": {self._root: self._show(event, asker)}}))


def event_plan(executor: Any, kind: type) -> FlatPlan | DeepPlan | None:  # noqa: ANN401  an Executor of any context
    """How `executor`'s subscription shows events of the Python type `kind`; None where that has to be executed."""
    definition = get_object_definition(kind)
    root = executor.schema.subscription_type
    object_type = None if definition is None else executor.schema.get_type(definition.name)
    if root is None or not isinstance(object_type, GraphQLObjectType):
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
    if (flat := _flat(executor, name, object_type, details)) is not None:
        return flat
    show = executor.plan_of(object_type, details)
    return None if show is None else DeepPlan(name, show)


def _flat(executor: Any, root: str, shown: GraphQLObjectType, details: FieldDetailsList) -> FlatPlan | None:  # noqa: ANN401
    selected = executor.collect_subfields(shown, details)
    if selected.new_defer_usages or not selected.grouped_field_set:
        return None
    constant, openings, attributes = b'{"data":{%b:' % orjson.dumps(root), [], []
    separator = b"{"
    for key, field_details in selected.grouped_field_set.items():
        name = field_details[0].node.name.value
        constant += separator + orjson.dumps(key) + b":"
        separator = b","
        if name == "__typename":
            constant += orjson.dumps(shown.name)
            continue
        type_, source = shown.fields[name].type, _source(shown.fields[name])
        if not isinstance(type_, GraphQLNonNull) or getattr(type_.of_type, "name", "") not in TEXTS:
            return None
        if source is None or not source.is_basic_field:
            return None
        openings.append(constant)
        attributes.append(source.python_name)
        constant = b""
    return FlatPlan(openings, attributes, constant + b"}}}")


def object_plan(executor: Any, object_type: GraphQLObjectType, details: FieldDetailsList) -> Show | None:  # noqa: ANN401
    """How the fields selected in `details` are shown of an object of this type; None where that has to be executed."""
    selected = executor.collect_subfields(object_type, details)
    source = object_type.extensions.get("strawberry-definition")
    if selected.new_defer_usages or source is None:
        return None
    fields = []
    for key, field_details in selected.grouped_field_set.items():
        show = _field(executor, object_type, field_details)
        if show is None:
            return None
        fields.append((key, show))
    kind = source.origin

    def show_object(value: Any, asker: Asker) -> dict[str, Any]:  # noqa: ANN401
        if type(value) is not kind:
            raise Unplanned
        return {key: show(value, asker) for key, show in fields}

    return show_object


def _field(executor: Any, parent: GraphQLObjectType, details: FieldDetailsList) -> Show | None:  # noqa: ANN401
    name = details[0].node.name.value
    if name == "__typename":
        return lambda _value, _asker: parent.name
    field = parent.fields[name]
    source = _source(field)
    read = None if source is None or field.args else _reader(source)
    show = None if read is None else _value(executor, field.type, details)
    if read is None or show is None:
        return None
    return lambda value, asker: show(read(value, asker), asker)


def _source(field: GraphQLField) -> StrawberryField | None:
    return field.extensions.get("strawberry-definition")


def _reader(source: StrawberryField) -> Show | None:
    """How a field's value is got from its object, where that takes an attribute or a call."""
    if source.is_basic_field:
        attribute = attrgetter(source.python_name)
        return lambda value, _asker: attribute(value)
    resolver = source.base_resolver
    if resolver is None or source.extensions or resolver.self_parameter is None:
        return None
    function = cast("Callable[..., Any]", resolver.wrapped_func)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return None
    if resolver.info_parameter is not None:
        return lambda value, asker: function(value, info=asker)
    return lambda value, _asker: function(value)


def _value(executor: Any, type_: GraphQLOutputType, details: FieldDetailsList) -> Show | None:  # noqa: ANN401
    if isinstance(type_, GraphQLNonNull):
        return _present(executor, type_.of_type, details)
    show = _present(executor, type_, details)
    return None if show is None else lambda value, asker: None if value is None else show(value, asker)


def _present(executor: Any, type_: GraphQLOutputType, details: FieldDetailsList) -> Show | None:  # noqa: ANN401
    """How a value is shown that must be there."""
    if isinstance(type_, GraphQLObjectType):
        return cast("Show | None", executor.plan_of(type_, details))
    if is_leaf_type(type_):
        return _leaf(type_)
    if is_abstract_type(type_):
        return _one_of(executor, type_, details)
    if not isinstance(type_, GraphQLList):
        return None
    item = _value(executor, type_.of_type, details)

    def show_list(value: Any, asker: Asker) -> list[Any]:  # noqa: ANN401
        if type(value) not in (list, tuple):
            raise Unplanned
        return [cast("Show", item)(each, asker) for each in value]

    return None if item is None else show_list


def _one_of(executor: Any, type_: GraphQLAbstractType, details: FieldDetailsList) -> Show | None:  # noqa: ANN401
    """For each type that a value may have; None where every one of them has to be executed."""
    plans: dict[type, Show] = {}
    for possible in executor.schema.get_possible_types(type_):
        if plan := executor.plan_of(possible, details):
            plans[possible.extensions["strawberry-definition"].origin] = plan
    return (lambda value, asker: plans[type(value)](value, asker)) if plans else None


def _leaf(type_: GraphQLLeafType) -> Show:
    if type_.name in TEXTS:
        return _of_type(str)
    if type_.name == "Boolean":
        return _of_type(bool)
    return _int if type_.name == "Int" else lambda value, _asker: _coerced(type_, value)


def _of_type(kind: type) -> Show:
    def show(value: Any, _asker: Asker) -> Any:  # noqa: ANN401
        if type(value) is not kind:
            raise Unplanned
        return value

    return show


def _int(value: Any, _asker: Asker) -> int:  # noqa: ANN401
    if type(value) is not int or not -MAX_INT <= value < MAX_INT:
        raise Unplanned
    return value


def _coerced(type_: GraphQLLeafType, value: Any) -> Any:  # noqa: ANN401
    coerced = type_.coerce_output_value(value)
    if coerced is None:
        raise Unplanned
    return coerced
