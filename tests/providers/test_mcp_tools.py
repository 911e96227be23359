"""What an MCP server says of a tool, as models and users are told it; and its results. Without servers."""

import json
import re
from typing import Any

import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

from domain.tools import MAX_DESCRIPTION, NAME, ToolError
from providers.mcp_connection import McpServer
from providers.mcp_tools import Approval, McpTool, UnusableTool, checker, offered_name, result_of, tool_of

LOOP = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
SLOW = {
    "type": "object",
    "properties": {"a": {"pattern": "^(a+)+$"}},
    "patternProperties": {"^(b+)+$": {}},
    "additionalProperties": False,
}


async def nobody(name: str, arguments: dict[str, Any]) -> CallToolResult:
    raise AssertionError(name)


def listed(approval: Approval = None, hints: ToolAnnotations | None = None, **fields: Any) -> McpTool:
    given: dict[str, Any] = {"name": "read", "input_schema": {"type": "object"}, **fields}
    return tool_of("files", Tool(annotations=hints, **given), approval, nobody)


# ── approval ──


@pytest.mark.parametrize(
    ("hints", "needed", "idempotent"),
    [
        (None, True, False),
        (ToolAnnotations(), True, False),
        (ToolAnnotations(read_only_hint=True), False, True),
        (ToolAnnotations(read_only_hint=False, idempotent_hint=True), True, True),
        (ToolAnnotations(destructive_hint=False), True, False),
    ],
)
def test_without_a_word_of_the_operator_only_what_reads_needs_no_approval(
    hints: ToolAnnotations | None, needed: bool, idempotent: bool
) -> None:
    made = listed(hints=hints)
    assert (made.needs_approval, made.idempotent) == (needed, idempotent)


@pytest.mark.parametrize("hints", [None, ToolAnnotations(read_only_hint=True)])
@pytest.mark.parametrize(("approval", "needed"), [(True, True), (False, False), (("read",), True), (("write",), False)])
def test_the_operator_has_the_last_word(approval: Approval, hints: ToolAnnotations | None, needed: bool) -> None:
    assert listed(approval, hints).needs_approval is needed


# ── names and descriptions ──


@pytest.mark.parametrize("name", ["read", "read file", "a/b.c", "größe", "x" * 200, "💥"])
def test_every_name_becomes_one_that_models_take(name: str) -> None:
    assert re.fullmatch(NAME, offered_name("files", name))


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert offered_name("files", "x" * 100 + "a") != offered_name("files", "x" * 100 + "b")


def test_a_title_comes_from_the_tool_its_hints_or_its_name() -> None:
    hints = ToolAnnotations(title="Hinted")
    assert [listed(title="Own", hints=hints).title, listed(hints=hints).title, listed().title] == [
        "Own",
        "Hinted",
        "read",
    ]


def test_a_description_is_cut_to_what_models_take_and_is_never_empty() -> None:
    assert len(listed(description="x" * 5_000).description) == MAX_DESCRIPTION
    assert listed().description == "read"


# ── schemas ──


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({}, "not of an object"),
        ({"type": "array"}, "not of an object"),
        ({"type": "object", "properties": 3}, "no JSON Schema"),
        ({"type": "object", "required": "a"}, "no JSON Schema"),
        ({"type": "object", "description": "x" * 100_000}, "more than 100000 characters"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableTool, match=reason):
        checker(schema)


@pytest.mark.parametrize("schema", [LOOP, SLOW], ids=["loop", "slow"])
def test_what_cannot_be_checked_here_is_left_to_the_server(schema: dict[str, Any]) -> None:
    assert checker(schema)({"a": "a" * 50 + "!", "b" * 50 + "!": 1}) is None


def test_a_schema_that_doubles_its_work_with_each_level_is_left_to_the_server() -> None:
    levels: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(50)}
    levels["a50"] = {"type": "object"}
    schema: dict[str, Any] = {"type": "object", "$defs": levels, "allOf": [{"$ref": "#/$defs/a0"}], "required": ["a"]}
    assert checker(schema)({"b": 1}) is None


def test_long_lists_are_not_compared_each_with_each() -> None:
    lists = {"type": "object", "properties": {"a": {"uniqueItems": True, "items": {"enum": list(range(10_000))}}}}
    assert checker(lists)({"a": [{"b": n} for n in range(100_000)]}) is None


def test_mistakes_are_told_without_long_values_and_not_without_end() -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {f"p{n}": {"type": "integer"} for n in range(99)},
    }
    told = checker(schema)({f"p{n}": "x" * 10_000 for n in range(99)})
    assert told is not None
    assert told.count("does not keep to type") == 5
    assert len(told) < 1_000


def test_arguments_that_the_schema_does_not_know_are_a_mistake() -> None:
    told = checker({"type": "object", "additionalProperties": False})({"b": 1})
    assert told == "arguments: Additional properties are not allowed ('b' was unexpected)"


def test_a_schema_may_be_of_an_earlier_draft() -> None:
    check = checker({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["a"]})
    assert check({}) == "arguments: 'a' is a required property"


def test_models_are_told_of_properties_even_if_there_are_none() -> None:
    assert json.loads(json.dumps(listed().parameters)) == {"type": "object", "properties": {}}


# ── results ──


def test_text_and_texts_of_resources_are_told_and_other_content_is_mentioned() -> None:
    content: list[ContentBlock] = [
        TextContent(text="one"),
        EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="two")),
        EmbeddedResource(resource=BlobResourceContents(uri="file:///b", blob="AAAA", mime_type="application/pdf")),
        ResourceLink(name="c", uri="file:///c"),
        AudioContent(data="AAAA", mime_type="audio/wav"),
    ]
    assert result_of(CallToolResult(content=content)) == (
        "one\ntwo\n[a resource of application/pdf: file:///b]\n[a link: file:///c]\n[content of audio/wav, not shown]"
    )


@pytest.mark.parametrize("value", [{"a": 1}, [], 0, "x"])
def test_structured_content_goes_before_text(value: object) -> None:
    assert result_of(CallToolResult(content=[TextContent(text="one")], structured_content=value)) == value


def test_a_failure_without_words_has_words() -> None:
    with pytest.raises(ToolError, match="did not say why"):
        result_of(CallToolResult(content=[], is_error=True))


def test_no_secret_is_in_a_servers_repr() -> None:
    server = McpServer("a", env={"KEY": "s3cret"}, url="http://me:s3cret@127.0.0.1/mcp", token="s3cret")
    assert "s3cret" not in repr(server)
