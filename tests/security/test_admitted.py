"""What our pages, our clients, the tools around GraphQL and real screens ask for is within every limit."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import GraphQLError, get_introspection_query

from graph import limits
from graph.costs import check_costs
from graph.schema import build_schema
from tests.docs.pages import ROOT

PLACES = ("*.md", "docs/**/*.md", "tests/clients/*.mjs", "tests/clients/*.py", "graphiql/src/*.ts*")
BEGINNING = re.compile(r'(?:\b(?:query|mutation|subscription)(?: \w+)?\s*(?:\([^(){}]*\)\s*)?|"query": ")\{')
FRAGMENT = re.compile(r"\bfragment (\w+) on \w+ \{")
SCHEMA = build_schema()._schema

ALL_OF_GRAPHQL_JS = {
    "specified_by_url": True,
    "directive_is_repeatable": True,
    "schema_description": True,
    "input_value_deprecation": True,
    "experimental_directive_deprecation": True,
    "one_of": True,
}
PART = (
    "parts { __typename id index ... on TextPart { text } ... on ReasoningPart { text durationMs }"
    " ... on ToolCallPart { toolCall { id name title status arguments argumentsText result error errorCode"
    " startedAt finishedAt approval { requestedAt expiresAt decidedAt decision comment } } } }"
)
MADE = "generation { model steps finishReason error { code message retryable } usage { inputTokens outputTokens } }"
SCREENS = {
    "sidebar of 100": """{ conversations(first: 100) { totalCount pageInfo { hasNextPage endCursor } nodes {
        id title lastActivityAt activeReplies { id }
        leaf { id role status text generation { error { message } } } } } }""",
    "sidebar of the viewer, by edges": """query ($n: Int = 100) { viewer { id displayName conversations(first: $n) {
        edges { cursor node { id title messages(last: 1) { edges { node { id text } } } } } } } }""",
    "chat of 100 messages": f"""query ($id: ID!, $before: String) {{ conversation(id: $id) {{
        id title settings {{ systemPrompt model {{ name title }} }}
        messages(last: 100, before: $before) {{ pageInfo {{ hasPreviousPage startCursor }} nodes {{
            id role status createdAt streamCursor siblingIndex {PART} {MADE} siblings {{ id }} }} }} }} }}""",
    "chat of 100 messages with every alternative": f"""query ($id: ID!) {{ conversation(id: $id) {{
        messages(first: 100) {{ nodes {{ id {PART} siblings {{ id {PART} {MADE} }} children {{ id }} }} }} }} }}""",
    "tree of one conversation": f"""query ($id: ID!, $after: String) {{ conversation(id: $id) {{
        allMessages(first: 100, after: $after) {{ edges {{ node {{ id parent {{ id }} {PART} {MADE} }} }} }} }} }}""",
    "the latest of 30 conversations": "{ conversations { nodes { messages { nodes { id text } } } } }",
    "100 objects again": """query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id
        ... on Conversation { title messages(last: 4) { nodes { id text } } }
        ... on Message { text siblings { id } } } }""",
    "what a schema can say of itself": """{ directive: __type(name: "__Directive") { fields { name } }
        field: __type(name: "__Field") { fields { name } } type: __type(name: "__Type") { fields { name } } }""",
    "all tasks with their conversations": """query ($n: Int = 1000) { tasks(status: PENDING, first: $n) {
        id title description priority status createdAt conversation { id title } } }""",
    "settings of 30 conversations with their tools": """{
        tools { name title description parameters needsApproval source }
        conversations { nodes { settings { toolChoice tools { name title } } } } }""",
    "introspection": get_introspection_query(),
    "introspection with all options": get_introspection_query(**ALL_OF_GRAPHQL_JS),
}
VARIABLES: dict[str, Any] = {"n": 100, "first": 100, "last": 100, "ids": ["msg_0"] * 100}


def ours() -> Iterator[tuple[str, str]]:
    """Every operation of our pages and clients, with its place and the fragments beside it."""
    for place in PLACES:
        for file in ROOT.glob(place):
            text = file.read_text().replace('\\"', '"').replace("'$", "$")
            fragments = {found[1]: block(text, found.start()) for found in FRAGMENT.finditer(text)}
            for found in BEGINNING.finditer(text):
                operation = block(text, found.start()).removeprefix('"query": "')
                place_in_file = f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}"
                yield place_in_file, with_fragments(operation, fragments)


def with_fragments(operation: str, fragments: dict[str, str]) -> str:
    """The operation and the fragments that it spreads, and those that these spread."""
    text, left = operation, dict(fragments)
    while spread := [name for name in left if f"...{name}" in text]:
        text = " ".join([text, *(left.pop(name) for name in spread)])
    return text


def block(text: str, start: int) -> str:
    """From there to the brace that closes the first one."""
    depth = 0
    for position in range(text.index("{", start), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start : position + 1]
    raise AssertionError(f"no end: {text[start : start + 80]}")


OURS = dict(ours())


def check(query: str) -> None:
    """Raises GraphQLError."""
    document = limits.parsed(query)
    limits.check(document)
    for cost in check_costs(SCHEMA, document).values():
        cost.check(VARIABLES)


@pytest.mark.parametrize("place", OURS)
def test_an_operation_of_ours_is_within_the_limits(place: str) -> None:
    check(OURS[place])


def test_operations_are_found_in_all_our_pages_and_clients() -> None:
    files = {place.split(":")[0] for place in OURS}
    assert {"README.md", "docs/from-rest.md", "docs/clients.md", "graphiql/src/tabs.ts"} <= files
    assert {"tests/clients/reply.mjs", "tests/clients/sidebar.mjs", "tests/clients/gql_client.py"} <= files
    assert len(OURS) >= 40


@pytest.mark.parametrize("screen", SCREENS)
def test_what_a_screen_or_a_tool_asks_for_is_within_the_limits(screen: str) -> None:
    check(SCREENS[screen])


def test_the_limits_themselves_are_within_the_limits() -> None:
    check("{" + " ".join(f"a{i}: __typename" for i in range(15)) + "}")
    check("{" + " ".join("server { version @skip(if: true) }" for _ in range(20)) + "}")
    check('{ message(id: "a") ' + "{ parent " * 8 + "{ id }" + " }" * 9)
    check("{" + "__typename " * 51 + "}")
    with pytest.raises(GraphQLError):
        check("{" + "__typename " * 52 + "}")


def test_a_text_of_100_000_characters_may_stand_in_the_document() -> None:
    check(f'mutation {{ sendMessage(input: {{text: "{"x" * 100_000}"}}) {{ replayed }} }}')
    check(f'mutation {{ sendMessage(input: {{text: """{"line " * 20_000}"""}}) {{ replayed }} }}')


def test_a_variable_that_no_page_can_have_is_left_to_execution() -> None:
    document = limits.parsed("query ($n: Int) { conversations(first: $n) { nodes { id } } }")
    values: list[object] = [1_000, -1, None, "many", True, [1], {}]
    for wrong in values:
        check_costs(SCHEMA, document)[None].check({"n": wrong})


def test_history_of_2_000_messages_is_within_the_limit_on_values() -> None:
    message = {"role": "USER", "parts": [{"text": "a"}], "createdAt": "2026-01-01T00:00:00Z"}
    limits.check_variables({"input": {"history": [message] * 2_000, "title": "Imported"}})
    with pytest.raises(GraphQLError, match="too many values"):
        limits.check_variables({"input": {"history": [message] * 2_100}})
