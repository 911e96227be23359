"""Operations of one field, which take a short way, give what graphql-core's whole way gives: results, errors, paths."""

from typing import Any

import pytest
import strawberry
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graph.execution import MaskingSchema
from graph.executor import ReplyExecutor
from graph.operations import prepared
from graph.resolvers import call_directly


@strawberry.type
class Thing:
    name: str = "thing"

    @strawberry.field
    async def slow(self) -> str:
        return "slow"

    @strawberry.field
    def broken(self) -> str:
        raise RuntimeError("broken")

    @strawberry.field
    async def maybe_broken(self) -> str | None:
        raise RuntimeError("maybe broken")


@strawberry.type
class Root:
    @strawberry.field
    def thing(self, name: str = "thing") -> Thing:
        return Thing(name=name)

    @strawberry.field
    async def things(self, count: int) -> list[Thing]:
        return [Thing(name=str(number)) for number in range(count)]

    @strawberry.field
    async def nothing(self) -> Thing | None:
        return None

    @strawberry.field
    async def missing(self) -> Thing:
        return None  # type: ignore[return-value]

    @strawberry.field
    def failing(self) -> Thing:
        raise RuntimeError("failing")

    @strawberry.field
    async def maybe_failing(self) -> Thing | None:
        raise RuntimeError("maybe failing")


@strawberry.type
class Query(Root):
    pass


@strawberry.type
class Mutation(Root):
    pass


SHORT = MaskingSchema(Query, Mutation, execution_context_class=ReplyExecutor)
call_directly(SHORT._schema, SHORT.schema_converter)
WHOLE = strawberry.Schema(Query, Mutation)
ROOTS = (
    "thing",
    'thing(name: "é")',
    "thing(name: $name)",
    "things(count: 0)",
    "things(count: $count)",
    "things(count: 2)",
    *("nothing", "missing", "failing", "maybeFailing"),
)
LEAVES = (
    *("name", "n: name", "slow", "maybeBroken", "broken", "__typename", "... on Thing { slow }"),
    "x: name @skip(if: $no)",
)
VARIABLES = {"$name": '$name: String! = "d"', "$count": "$count: Int! = 1", "$no": "$no: Boolean! = false"}


@st.composite
def operations(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["query", "mutation"]))
    fields = []
    for number in range(draw(st.sampled_from([1, 1, 1, 2]))):
        alias = draw(st.sampled_from(["", "a: "])) if number == 0 else "b: "
        leaves = " ".join(draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=3)))
        directive = draw(st.sampled_from(["", "", "", "@include(if: $no)", "@skip(if: $no)"]))
        fields.append(f"{alias}{draw(st.sampled_from(ROOTS))} {directive} {{ {leaves} ...More }}")
    spread = draw(st.booleans())
    body = f"{{ {' '.join(fields)} {'...Top' if spread else ''} }} fragment More on Thing {{ name }}"
    top = f"fragment Top on {kind.capitalize()} {{ __typename }}" if spread else ""
    used = ", ".join(declared for name, declared in VARIABLES.items() if name in body)
    return f"{kind} Asked{f'({used})' if used else ''} {body} {top}"


def shown(result: Any) -> tuple[Any, list[Any]]:
    """Its data and where its errors are; what those say is masked in one of the two."""
    return result.data, [(error.path, error.locations) for error in result.errors or ()]


@settings(max_examples=300, deadline=None)
@given(operations(), st.sampled_from([{}, {"count": 2}, {"no": True}, {"name": None}, {"count": "x"}, {"other": 1}]))
async def test_the_short_way_gives_what_the_whole_way_gives(document: str, variables: dict[str, Any]) -> None:
    assume(not prepared(SHORT._schema, document).errors)
    short = shown(await SHORT.execute(document, variables))
    assert short == shown(await WHOLE.execute(document, variables))


@pytest.mark.parametrize("name", ["", "Other"])
async def test_a_name_that_the_document_does_not_have_is_refused(name: str) -> None:
    result = await SHORT.execute("query Asked { thing { name } }", operation_name=name)
    assert result.data is None
    assert len(result.errors) == 1
