"""A tool that an MCP server has, as one that models are offered: its name, its schema, its calls and their results.

Knows nothing of how servers are reached.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for
from mcp_types import CallToolResult, EmbeddedResource, ResourceLink, TextContent, TextResourceContents
from mcp_types import Tool as ListedTool
from referencing import Registry

from domain.tools import MAX_DESCRIPTION, TIMEOUT_SECONDS, ToolContext, ToolError, ToolSource

MAX_NAME = 64
MAX_SCHEMA = 100_000
"""Characters: what is longer would fill the context of most models."""
MAX_ERROR = 4_000
LEFT_OUT = dict.fromkeys(("pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties", "uniqueItems"))
MAX_RULES = 20_000
"""Of one check, about half a second: with each level of references a schema can double the work."""
MISTAKES = 5
CHARACTERS = 200
Approval = bool | tuple[str, ...] | None


class Call(Protocol):
    async def __call__(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Raises ToolError, or ToolUnreachable when the server is away or goes away."""
        ...


class UnusableTool(Exception):
    """Why a tool that a server lists cannot be offered."""


@dataclass(frozen=True, slots=True, eq=False)
class McpTool:
    """A `domain.tools.Tool` of an MCP server."""

    name: str
    title: str
    description: str
    parameters: Mapping[str, Any]
    needs_approval: bool
    idempotent: bool
    upstream_name: str
    mistakes: Callable[[Mapping[str, object]], str | None]
    call: Call
    source: ToolSource = ToolSource.MCP
    timeout: float = TIMEOUT_SECONDS

    def check(self, arguments: Mapping[str, object]) -> str | None:
        return self.mistakes(arguments)

    async def run(self, context: ToolContext, arguments: Mapping[str, object]) -> object:
        return result_of(await self.call(self.upstream_name, dict(arguments)))


def tool_of(server: str, listed: ListedTool, approval: Approval, call: Call) -> McpTool:
    """Raises UnusableTool. Without `approval` the tool's own hints decide: what only reads needs none."""
    hints = listed.annotations
    reads = hints is not None and hints.read_only_hint is True
    repeatable = hints is not None and hints.idempotent_hint is True
    description = (listed.description or listed.title or listed.name).strip()
    return McpTool(
        name=offered_name(server, listed.name),
        title=listed.title or (hints.title if hints else None) or listed.name,
        description=description if len(description) <= MAX_DESCRIPTION else description[: MAX_DESCRIPTION - 1] + "…",
        parameters={"properties": {}, **listed.input_schema},
        needs_approval=not reads if approval is None else approval is True or listed.name in (approval or ()),
        idempotent=reads or repeatable,
        upstream_name=listed.name,
        mistakes=checker(listed.input_schema),
        call=call,
    )


def offered_name(server: str, tool: str) -> str:
    """`SERVER_TOOL`, with _ for what names may not hold; what is too long ends in a digest of the whole."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", f"{server}_{tool}")
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(f"{server}_{tool}".encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}_{digest}"


def checker(schema: Mapping[str, Any]) -> Callable[[Mapping[str, object]], str | None]:
    """A `Tool.check` by a JSON Schema. Raises UnusableTool when that is none for an object.

    Regular expressions are left to the server, as some take for ever; nothing is fetched for a `$ref`. What cannot be
    checked here for another reason, or not with MAX_RULES, is left to the server too.
    """
    if schema.get("type") != "object":
        raise UnusableTool("its schema is not of an object")
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise UnusableTool(f"its schema has more than {MAX_SCHEMA} characters")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        raise UnusableTool("its schema is no JSON Schema") from error
    rules = {**kind.VALIDATORS, **LEFT_OUT, "additionalProperties": _additional(kind)}
    left = _Left()
    counted = {keyword: rule and left.counting(rule) for keyword, rule in rules.items()}
    validator = extend(kind, counted)(schema, registry=Registry())

    def check(arguments: Mapping[str, object]) -> str | None:
        left.rules = MAX_RULES
        try:
            return _words(islice(validator.iter_errors(arguments), MISTAKES))
        except Exception:
            return None

    return check


class _Left:
    """How many rules may still be applied in a check."""

    def __init__(self) -> None:
        self.rules = 0

    def counting(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """The same rule. Raises OverflowError when there were too many."""

        def counted(validator: object, value: object, *given: object) -> Any:  # noqa: ANN401  what the library's rules give
            self.rules -= 1 + (len(value) if isinstance(value, list) else 0)
            if self.rules < 0:
                raise OverflowError
            return rule(validator, value, *given)

        return counted


def _additional(kind: Any) -> Callable[..., Iterator[ValidationError]]:  # noqa: ANN401  a class of validators
    """The keyword additionalProperties, but where it depends on patterns."""
    rule = kind.VALIDATORS.get("additionalProperties")

    def additional(validator: object, value: object, instance: object, schema: Mapping[str, Any]) -> Iterator[Any]:
        if rule is not None and "patternProperties" not in schema:
            yield from rule(validator, value, instance, schema) or ()

    return additional


def _words(errors: Iterable[ValidationError]) -> str | None:
    """Without long values, which the model wrote."""
    told = []
    for error in errors:
        place = ".".join(str(step) for step in error.absolute_path)[:CHARACTERS] or "arguments"
        rule = f"does not keep to {error.validator}: {json.dumps(error.validator_value)}"[:CHARACTERS]
        told.append(f"{place}: {error.message if len(error.message) <= CHARACTERS else rule}")
    return "; ".join(told) or None


def result_of(result: CallToolResult) -> object:
    """Any JSON value. Raises ToolError where the server says that the tool failed."""
    text = "\n".join(_note(part) for part in result.content)
    if result.is_error:
        raise ToolError(text[:MAX_ERROR] or "The tool failed and did not say why.")
    if result.structured_content is not None:
        structured: object = result.structured_content
        return structured
    return text


def _note(part: object) -> str:
    """Text as it is; a word on everything else, which models are not shown."""
    match part:
        case TextContent(text=text) | EmbeddedResource(resource=TextResourceContents(text=text)):
            return text
        case EmbeddedResource(resource=resource):
            return f"[a resource of {resource.mime_type or 'unknown type'}: {resource.uri}]"
        case ResourceLink(uri=uri):
            return f"[a link: {uri}]"
        case _:
            return f"[content of {getattr(part, 'mime_type', 'unknown type')}, not shown]"
