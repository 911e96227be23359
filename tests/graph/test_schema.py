"""The schema as a document."""

from pathlib import Path

from graphql import build_schema as parse_sdl
from graphql import get_introspection_query

from graph.schema import build_schema, sdl

ROOT = Path(__file__).parents[2]


def test_the_checked_in_schema_is_what_the_code_prints() -> None:
    assert (ROOT / "schema.graphql").read_text() == sdl()


def test_the_printed_schema_is_valid_graphql() -> None:
    assert parse_sdl(sdl()).subscription_type is not None


def test_every_field_of_one_name_in_one_interface_has_one_nullability() -> None:
    """Otherwise an ordinary query that selects it in two fragments would be invalid."""
    schema = build_schema()._schema
    for interface in (
        t for t in schema.type_map.values() if t.name in ("ReplyEvent", "ConversationEvent", "UserError", "MessagePart")
    ):
        seen: dict[str, str] = {}
        for concrete in schema.get_possible_types(interface):  # type: ignore[arg-type]
            for name, field in concrete.fields.items():
                assert seen.setdefault(name, str(field.type)) == str(field.type)


async def test_introspection_passes_the_limits() -> None:
    result = await build_schema().execute(get_introspection_query())
    assert result.errors is None
