"""One operation of a client's: its document within the limits and sound, and why it may be refused all the same.

Documents come again and again, so what can be known of one without its variables is worked out once. Knows the
GraphQL schema as a value, and nothing of how operations are executed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    get_operation_ast,
    specified_rules,
    validate,
)
from graphql.execution.collect_fields import FragmentDetails
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule
from strawberry.types.graphql import OperationType
from strawberry.utils.operation import get_first_operation, get_operation_type

from graph import limits
from graph.context import Caller
from graph.costs import VaryingCost, check_costs
from graph.errors import refusal, without_values

CACHED_DOCUMENTS = 128
CACHED_CHARACTERS = 16_384
"""Longer documents carry texts instead of variables: they never come again, and would fill the memory."""
MAX_ERRORS = 10
MAX_MESSAGE_CHARACTERS = 500
"""Of an error of the document, which may quote names and literals of any length."""
RULES = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)
PLURALS = {
    OperationType.QUERY: "queries",
    OperationType.MUTATION: "mutations",
    OperationType.SUBSCRIPTION: "subscriptions",
}
AMBIGUOUS = "Must provide operation name if query contains multiple operations."
PUBLIC = {"__typename", "__schema", "__type", "server", "register", "login", "refreshSession", "logout"}
"""What may be asked for without signing in."""
FOR_STRANGERS = {"viewer"}
"""Who shows a token that does not hold is not told that nobody is signed in, but to refresh the session."""


@dataclass(frozen=True, slots=True)
class Memo:
    """What executors have worked out about the selections of a document, by the identity of its nodes."""

    subfields: dict[Any, Any] = field(default_factory=dict)
    plans: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document within the limits, what is wrong with it, and the operations whose cost depends on variables.

    `memo` is there where the selections are the same whatever the variables are.
    """

    document: DocumentNode
    errors: list[GraphQLError]
    varying_costs: dict[str | None, VaryingCost]
    definitions: dict[str, FragmentDefinitionNode]
    fragments: dict[str, FragmentDetails]
    memo: Memo | None


def prepared(schema: GraphQLSchema, query: str) -> Prepared:
    """Raises GraphQLError when the document cannot be parsed or is beyond a limit; it is not validated then."""
    return (_prepared if len(query) <= CACHED_CHARACTERS else _prepared.__wrapped__)(schema, query)


@lru_cache(maxsize=CACHED_DOCUMENTS)
def _prepared(schema: GraphQLSchema, query: str) -> Prepared:
    document = limits.parsed(query)
    limits.check(document)
    varying_costs = check_costs(schema, document)
    errors = [_of_the_document(error) for error in validate(schema, document, RULES, max_errors=MAX_ERRORS)]
    memo = None if "skip" in query or "include" in query else Memo()  # an @ may stand apart from its name
    named = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    fragments = {name: FragmentDetails(node) for name, node in named.items()}
    return Prepared(document, errors, varying_costs, named, fragments, memo)


def _of_the_document(error: GraphQLError) -> GraphQLError:
    """Without the exception of the scalar that refused a literal, so that nobody takes it for a fault of ours."""
    message = without_values(error.message)
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[:MAX_MESSAGE_CHARACTERS]}…"
    return GraphQLError(message, nodes=error.nodes, source=error.source, positions=error.positions)


class AskedOperation:
    """One operation, as a client asks for it. `prepared` is there once `refusals` found no mistake in it."""

    prepared: Prepared | None = None
    operation: OperationDefinitionNode | None = None

    def __init__(self, query: str | None, variables: dict[str, Any] | None, name: str | None) -> None:
        self.query = query
        self.variables = variables
        self.name = name

    def refusals(
        self, schema: GraphQLSchema, allowed: Collection[OperationType], caller: Caller | None
    ) -> list[GraphQLError]:
        """Why it is not executed; empty where it is."""
        try:
            if not self.query:
                raise MissingQueryError
            found = prepared(schema, self.query)
            self.operation = get_operation_ast(found.document, self._name_in(found.document))
            errors = found.errors or self._errors_of_request(found, caller)
            if not errors:
                self.prepared = found
            self._check_type(found.document, allowed)
        except GraphQLError as error:
            return [error]
        except CannotGetOperationTypeError as error:
            return [GraphQLError(error.as_http_error_reason(), original_error=error)]
        except InvalidOperationTypeError as error:
            return [GraphQLError(f"{PLURALS[error.operation_type]} are not allowed", original_error=error)]
        except MissingQueryError as error:
            return [GraphQLError(str(error), original_error=error)]
        return errors

    @property
    def subscribes(self) -> bool:
        return self.operation is not None and self.operation.operation.value == OperationType.SUBSCRIPTION.value

    @property
    def label(self) -> tuple[str, str]:
        """Root field and type of the operation. Names that clients make up would be labels without number."""
        if self.prepared is None or self.operation is None:
            return "invalid", "unknown"
        return next(_root_fields(self.prepared.document, self.operation)), self.operation.operation.value

    def _check_type(self, document: DocumentNode, allowed: Collection[OperationType]) -> None:
        """Raises CannotGetOperationTypeError, InvalidOperationTypeError."""
        name = self._name_in(document)
        try:
            kind = get_operation_type(document, name)
        except RuntimeError as error:
            raise CannotGetOperationTypeError(name) from error
        if kind not in allowed:
            raise InvalidOperationTypeError(kind)

    def _name_in(self, document: DocumentNode) -> str | None:
        first = get_first_operation(document) if self.name is None else None
        return self.name if first is None or first.name is None else first.name.value

    def _errors_of_request(self, found: Prepared, caller: Caller | None) -> list[GraphQLError]:
        """Why the operation is not executed, though its document is sound.

        GraphQL's GetOperation(): without a name there must be one operation, where Strawberry takes the first.
        """
        operation = get_operation_ast(found.document, self.name)
        if self.name is None and operation is None:
            return [GraphQLError(AMBIGUOUS)]
        try:
            if self.variables:
                limits.check_variables(self.variables)
            if cost := found.varying_costs.get(self._name_in(found.document)):
                cost.check(self.variables)
        except GraphQLError as error:
            return [error]
        if caller is not None and caller.identity is None and operation is not None:
            asked = set(_root_fields(found.document, operation))
            private = asked - PUBLIC - (FOR_STRANGERS if caller.stranger else set())
            return [refusal(caller.refusal)] if private else []
        return []


def _root_fields(document: DocumentNode, operation: OperationDefinitionNode) -> Iterator[str]:
    """The names of the fields at the top of a sound operation. Each fragment is read once: spreads may double."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    waiting = [operation.selection_set]
    while waiting:
        for selection in waiting.pop().selections:
            if isinstance(selection, FieldNode):
                yield selection.name.value
            elif isinstance(selection, InlineFragmentNode):
                waiting.append(selection.selection_set)
            elif isinstance(selection, FragmentSpreadNode) and selection.name.value in fragments:
                waiting.append(fragments.pop(selection.name.value).selection_set)
