"""Resolvers that are called directly get what Strawberry would give them, whatever a client sends."""

from typing import Any

import pytest
import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    Undefined,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strawberry.extensions import FieldExtension
from strawberry.types.arguments import convert_arguments
from strawberry.types.field import StrawberryField

from graph.resolvers import arguments_of, call_directly, converted
from graph.schema import build_schema

SCHEMA = build_schema()
CONVERTER = SCHEMA.schema_converter
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "Int": st.integers(-5, 5),
    "Float": st.floats(allow_nan=False),
    "Boolean": st.booleans(),
    "JSON": st.sampled_from([{}, {"a": [1, None]}, [], "text", 1.5]),
}


def fields_with_arguments() -> dict[str, Any]:
    objects = [each for each in SCHEMA._schema.type_map.values() if isinstance(each, GraphQLObjectType)]
    return {
        f"{each.name}.{name}": field
        for each in objects
        for name, field in each.fields.items()
        if field.args and not each.name.startswith("__")
    }


FIELDS = fields_with_arguments()


def coerced(type_: Any) -> st.SearchStrategy[Any]:
    """What graphql-core makes of the values that a client may send for a type."""
    if isinstance(type_, GraphQLNonNull):
        return present(type_.of_type)
    return st.none() | present(type_)


def present(type_: Any) -> st.SearchStrategy[Any]:
    if isinstance(type_, GraphQLList):
        return st.lists(coerced(type_.of_type), max_size=3)
    if isinstance(type_, GraphQLEnumType):
        return st.sampled_from([each.value for each in type_.values.values()])
    if isinstance(type_, GraphQLInputObjectType):
        return members(type_.fields)
    return LEAVES.get(type_.name, st.text(max_size=3))


def members(inputs: Any) -> st.SearchStrategy[dict[str, Any]]:
    always = {
        name: coerced(each.type)
        for name, each in inputs.items()
        if isinstance(each.type, GraphQLNonNull) or each.default_value is not Undefined
    }
    mostly = {name: coerced(each.type) for name, each in inputs.items() if name not in always}
    return st.fixed_dictionaries(always, optional=mostly)


def outcome(convert: Any) -> Any:
    try:
        return convert()
    except Exception as error:
        return type(error), str(error)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), members(FIELDS[name].args))))
async def test_arguments_arrive_as_strawberry_converts_them(asked: tuple[str, dict[str, Any]]) -> None:
    name, given_values = asked
    source: StrawberryField = FIELDS[name].extensions["strawberry-definition"]
    ours = outcome(lambda: converted(arguments_of(source, CONVERTER), given_values))
    theirs = outcome(
        lambda: convert_arguments(given_values, source.arguments, CONVERTER.scalar_registry, CONVERTER.config)
    )
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(FIELDS))
async def test_every_field_with_arguments_is_called_directly(name: str) -> None:
    field = FIELDS[name]
    assert (field.subscribe or field.resolve).__module__ == "graph.resolvers"


async def test_a_list_that_is_a_default_is_not_shared_between_requests() -> None:
    source: StrawberryField = FIELDS["Query.nodes"].extensions["strawberry-definition"]
    ids = ["a"]
    values = converted(arguments_of(source, CONVERTER), {"ids": ids})
    assert values == {"ids": ids}
    assert values["ids"] is not ids


async def test_a_field_with_an_extension_or_a_parent_keeps_strawberrys_resolver() -> None:
    class Shouting(FieldExtension):
        def resolve(self, next_: Any, source: Any, info: strawberry.Info, **arguments: Any) -> Any:
            return next_(source, info, **arguments).upper()

    @strawberry.type
    class Query:
        @strawberry.field(extensions=[Shouting()])  # type: ignore[untyped-decorator]
        def loud(self, text: str) -> str:
            return text

        @strawberry.field
        def whole(self, root: strawberry.Parent[Any], text: str) -> str:
            return f"{root} {text}"

        @strawberry.field
        async def plain(self, text: str = "plain") -> str:
            return text

    schema = strawberry.Schema(Query)
    call_directly(schema._schema, schema.schema_converter)
    result = await schema.execute('{ loud(text: "a") whole(text: "b") plain other: plain(text: "c") }', root_value="r")
    assert result.data == {"loud": "A", "whole": "r b", "plain": "plain", "other": "c"}
