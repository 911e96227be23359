"""What a document may hold: its length, depth, aliases, directives and repeated fields, and what it may ask for once.

Read off the syntax before the document is validated, because validation itself can be the attack: it compares fields
pairwise, and lists every mistake. Knows no schema: what the objects cost that are asked for is in `costs.py`.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import cast

from graphql import (
    DocumentNode,
    ExecutableDefinitionNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSyntaxError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    parse,
)

MAX_CHARACTERS = 131_072
"""Reads within 40 ms whatever it is made of, and holds a message of the default 100,000 characters."""
MAX_TOKENS = 1_000
MAX_DEPTH = 10
MAX_ALIASES = 15
MAX_DIRECTIVES = 20
MAX_REPEATED = 50
"""Fields that are selected again beside themselves. Validation compares each with all its like."""
MAX_SENSITIVE = 1
MAX_VALUES = 12_500
"""In the variables, each name of an object and each entry of a list: 2,000 messages of `history` have 12,000 at most.
Reading one costs 2 to 7 microseconds."""
LOCATED_CHARACTERS = 16_384
"""Errors in longer documents do not say where: to count their lines for each costs more than to find them."""

SENSITIVE = frozenset(
    {
        "register",
        "login",
        "refreshSession",
        "changePassword",
        "sendMessage",
        "editMessage",
        "regenerateReply",
        "continueReply",
    }
)
"""Mutations that guess at secrets or spend money: limits on requests count one for each operation."""
INTROSPECTION = frozenset({"__schema", "__type"})
"""What these select, and fragments on its types, is as deep as the types it describes: its cost is limited instead."""

QUERY_TOO_COMPLEX = "QUERY_TOO_COMPLEX"
PARSER_GAVE_UP = "Parsing aborted."


def refusal(what: str, found: int | str, allowed: int, advice: str = "") -> GraphQLError:
    """The error of a document or operation beyond a limit, before anything of it was executed."""
    number = f"{found:,}" if isinstance(found, int) else found
    message = f"The {what}: {number}, where at most {allowed:,} are allowed.{advice}"
    return GraphQLError(message, extensions={"code": QUERY_TOO_COMPLEX})


def parsed(query: str) -> DocumentNode:
    """The document, within the limits on characters and tokens. Raises GraphQLError."""
    if len(query) > MAX_CHARACTERS:
        advice = " Long texts belong in variables."
        raise refusal("document is too long in characters", len(query), MAX_CHARACTERS, advice)
    try:
        return parse(query, max_tokens=MAX_TOKENS, no_location=len(query) > LOCATED_CHARACTERS)
    except GraphQLSyntaxError as error:
        if error.message.endswith(PARSER_GAVE_UP):
            raise GraphQLError(error.message, extensions={"code": QUERY_TOO_COMPLEX}) from error
        raise


@dataclass(slots=True)
class Measure:
    """Of a selection with all its fragments, each as often as it is spread."""

    depth: int = 0
    aliases: int = 0
    directives: int = 0
    sensitive: int = 0
    repeated: int = 0
    """Below the fields of this selection; in fragments it is counted there."""
    names: Counter[str] = field(default_factory=Counter)
    """Response names of the fields of this selection."""

    def add(self, other: "Measure") -> None:
        self.depth = max(self.depth, other.depth)
        self.aliases += other.aliases
        self.directives += other.directives
        self.sensitive += other.sensitive
        self.repeated += other.repeated
        self.names.update(other.names)

    @property
    def all_repeated(self) -> int:
        return self.repeated + self.names.total() - len(self.names)

    @property
    def spread(self) -> "Measure":
        """What a spread of this fragment adds: whatever it repeats by itself, validation compares once."""
        return replace(self, repeated=0, names=Counter(self.names.keys()))

    def check(self) -> None:
        """Raises GraphQLError."""
        for what, found, allowed in (
            ("depth of the selection is too great", self.depth, MAX_DEPTH),
            ("selection has too many aliases", self.aliases, MAX_ALIASES),
            ("selection has too many directives", self.directives, MAX_DIRECTIVES),
            (f"selection has too many of the fields {', '.join(sorted(SENSITIVE))}", self.sensitive, MAX_SENSITIVE),
        ):
            if found > allowed:
                raise refusal(what, found, allowed)


def check(document: DocumentNode) -> None:
    """Every operation and fragment against the limits, those that are never used too. Raises GraphQLError."""
    fragments: dict[str, Measure] = {}
    for fragment in fragments_in_order(document):
        measure = fragments[fragment.name.value] = _of_definition(fragment, fragments)
        if fragment.type_condition.name.value.startswith("__"):
            measure.depth = 0
    operations = [
        _of_definition(node, fragments) for node in document.definitions if isinstance(node, OperationDefinitionNode)
    ]
    measures = [*fragments.values(), *operations]
    for measure in measures:
        measure.check()
    repeated = sum(measure.all_repeated for measure in measures)
    if repeated > MAX_REPEATED:
        raise refusal("document repeats too many fields", repeated, MAX_REPEATED)


def check_variables(variables: Mapping[str, object]) -> None:
    """Raises GraphQLError."""
    found, waiting = 0, [cast(Collection[object], variables)]
    while waiting:
        value = waiting.pop()
        found += len(value)
        if found > MAX_VALUES:
            raise refusal("variables hold too many values", found, MAX_VALUES)
        inner = value.values() if isinstance(value, dict) else value
        waiting.extend(each for each in inner if isinstance(each, dict | list))


def fragments_in_order(document: DocumentNode) -> list[FragmentDefinitionNode]:
    """Each after those that it spreads. Raises GraphQLError where there is no such order."""
    named: dict[str, FragmentDefinitionNode] = {}
    for node in document.definitions:
        if isinstance(node, FragmentDefinitionNode):
            if node.name.value in named:
                raise GraphQLError(f"There can be only one fragment named '{node.name.value}'.")
            named[node.name.value] = node
    spreads = {name: _spreads(node.selection_set) & named.keys() for name, node in named.items()}
    try:
        return [named[name] for name in TopologicalSorter(spreads).static_order()]
    except CycleError as error:
        circle = ", ".join(error.args[1][:4])
        message = f"The document's fragments go in a circle, so its depth has no end: {circle}."
        raise GraphQLError(message, extensions={"code": QUERY_TOO_COMPLEX}) from error


def members(selections: SelectionSetNode) -> Iterator[FieldNode | FragmentSpreadNode | InlineFragmentNode]:
    """What is selected at one level: inline fragments, and what they hold."""
    waiting = [selections]
    while waiting:
        for node in waiting.pop().selections:
            if isinstance(node, InlineFragmentNode):
                waiting.append(node.selection_set)
            assert isinstance(node, FieldNode | FragmentSpreadNode | InlineFragmentNode)
            yield node


def _spreads(selections: SelectionSetNode) -> set[str]:
    found: set[str] = set()
    waiting = [selections]
    while waiting:
        for node in members(waiting.pop()):
            if isinstance(node, FragmentSpreadNode):
                found.add(node.name.value)
            elif isinstance(node, FieldNode) and node.selection_set:
                waiting.append(node.selection_set)
    return found


def _of_definition(node: ExecutableDefinitionNode, fragments: dict[str, Measure]) -> Measure:
    measure = _of_selections(node.selection_set, fragments)
    variables = node.variable_definitions or ()
    measure.directives += len(node.directives or ()) + sum(len(each.directives or ()) for each in variables)
    return measure


def _of_selections(selections: SelectionSetNode, fragments: dict[str, Measure]) -> Measure:
    measure = Measure()
    for node in members(selections):
        measure.directives += len(node.directives or ())
        if isinstance(node, FieldNode):
            measure.add(_of_field(node, fragments))
        elif isinstance(node, FragmentSpreadNode) and node.name.value in fragments:
            measure.add(fragments[node.name.value].spread)
    return measure


def _of_field(node: FieldNode, fragments: dict[str, Measure]) -> Measure:
    below = _of_selections(node.selection_set, fragments) if node.selection_set else Measure()
    name = (node.alias or node.name).value
    return Measure(
        depth=1 if node.name.value in INTROSPECTION else 1 + below.depth,
        aliases=below.aliases + (node.alias is not None),
        directives=below.directives,
        sensitive=below.sensitive + (node.name.value in SENSITIVE),
        repeated=below.all_repeated,
        names=Counter((name,)),
    )
