"""Resolvers called straight from graphql-core's executor, with their arguments as the types they are declared with.

Strawberry has five layers between the two, which are there for extensions of fields, parents and handlers of errors,
and finds out anew for each call what types the arguments have. What a field needs is worked out here once, with the
schema; fields that have any of those keep Strawberry's resolver. Knows nothing of what resolvers do.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, NamedTuple, cast

from graphql import GraphQLField, GraphQLObjectType, GraphQLResolveInfo, GraphQLSchema
from strawberry.relay import GlobalID
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types import get_object_definition, has_object_definition
from strawberry.types.arguments import convert_argument
from strawberry.types.base import StrawberryList, StrawberryMaybe, StrawberryOptional
from strawberry.types.field import StrawberryField
from strawberry.types.lazy_type import LazyType

Convert = Callable[[Any], Any]
"""From a value as GraphQL has coerced it, which is not None."""
Resolve = Callable[..., Any]


class Member(NamedTuple):
    """An argument, or a field of an input."""

    name: str
    python_name: str
    convert: Convert | None
    """None where the value is taken as it is."""


class NotPlain(Exception):
    """Values of this type are Strawberry's to convert: Maybe tells null from nothing, others are not known yet."""


def call_directly(schema: GraphQLSchema, converter: GraphQLCoreConverter) -> None:
    """Replace Strawberry's resolvers in this schema of its making, wherever they do no more than to call ours."""
    for named in schema.type_map.values():
        if isinstance(named, GraphQLObjectType):
            for field in named.fields.values():
                _call_directly(field, converter)


def _call_directly(field: GraphQLField, converter: GraphQLCoreConverter) -> None:
    source: StrawberryField | None = field.extensions.get("strawberry-definition")
    if source is None or (resolve := direct(source, converter)) is None:
        return
    if field.subscribe is None:
        field.resolve = resolve
    else:
        field.subscribe = resolve


def direct(source: StrawberryField, converter: GraphQLCoreConverter) -> Resolve | None:
    """The resolver of a field, as graphql-core calls it; None where only Strawberry's will do."""
    resolver = source.base_resolver
    if resolver is None or source.extensions or resolver.parent_parameter or resolver.root_parameter:
        return None
    try:
        members = arguments_of(source, converter)
    except NotPlain:
        return None
    function = cast("Callable[..., Any]", resolver.wrapped_func)
    bound, info_parameter = resolver.self_parameter is not None, resolver.info_parameter
    info_class = converter.config.info_class

    def resolve(parent: object, info: GraphQLResolveInfo[Any], **given: Any) -> Any:  # noqa: ANN401  the resolver's own
        arguments = converted(members, given)
        if info_parameter is not None:
            arguments[info_parameter.name] = info_class(_raw_info=info, _field=source)
        return function(parent, **arguments) if bound else function(**arguments)

    return resolve


def arguments_of(source: StrawberryField, converter: GraphQLCoreConverter) -> list[Member]:
    """Raises NotPlain."""
    names = converter.config.name_converter
    return [
        Member(names.from_argument(argument), argument.python_name, conversion(argument.type, converter))
        for argument in source.arguments
    ]


def converted(members: list[Member], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the members that are given, by their names in Python."""
    values = {}
    for name, python_name, convert in members:
        if name in given:
            value = given[name]
            values[python_name] = value if convert is None or value is None else convert(value)
    return values


def conversion(type_: Any, converter: GraphQLCoreConverter) -> Convert | None:  # noqa: ANN401  a type or one of Strawberry's
    """As Strawberry converts values of a type; None where it leaves them as they are. Raises NotPlain."""
    if isinstance(type_, StrawberryMaybe | LazyType) or type_ is GlobalID:
        raise NotPlain
    if isinstance(type_, StrawberryOptional):
        return conversion(type_.of_type, converter)
    if isinstance(type_, StrawberryList):
        return _list_of(conversion(type_.of_type, converter))
    return _input(type_, converter) if has_object_definition(type_) else None


def _list_of(convert: Convert | None) -> Convert:
    if convert is None:
        return list  # a default is the same list for every request
    return lambda values: [None if value is None else convert(value) for value in values]


def _input(type_: Any, converter: GraphQLCoreConverter) -> Convert:  # noqa: ANN401  a class
    """Strawberry's own conversion for inputs that are more than their fields."""
    definition = get_object_definition(type_, strict=True)
    names, fields = converter.config.name_converter, definition.fields
    try:
        if definition.from_input is not None:
            raise NotPlain
        members = [
            Member(names.from_field(each), each.python_name, conversion(each.resolve_type(), converter))
            for each in fields
        ]
    except NotPlain:
        return lambda value: convert_argument(value, type_, converter.scalar_registry, converter.config)
    absent = {
        each.python_name: None for each in fields if each.default_value is MISSING and each.default_factory is MISSING
    }
    return lambda value: type_(**(absent | converted(members, value)))
