"""The whole schema: the roots merged, limits on documents, and the SDL that `schema.graphql` is printed from."""

from asyncio import CancelledError
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    Undefined,
    get_operation_ast,
    specified_rules,
    validate,
)
from strawberry.extensions import SchemaExtension
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule
from strawberry.tools import merge_types

from graph import limits
from graph.accounts import AccountMutation
from graph.approvals import ApprovalMutation
from graph.context import Context
from graph.conversations import ConversationMutation, ConversationQuery
from graph.costs import VaryingCost, check_costs
from graph.errors import ERROR_TYPES, Unexpected, refusal, without_values
from graph.execution import MaskingSchema, ReplyExecutor
from graph.feed import EVENT_TYPES as CONVERSATION_EVENT_TYPES
from graph.feed import FeedSubscription
from graph.messages import ReasoningPart, TextPart, ToolCallPart
from graph.models import ModelQuery
from graph.nodes import DATE_TIME
from graph.replies import ReplyMutation
from graph.server import ServerQuery
from graph.streaming import EVENT_TYPES as REPLY_EVENT_TYPES
from graph.streaming import Subscription as ReplySubscription
from graph.tasks import TaskQuery
from graph.tools import ToolQuery

PUBLIC = {"__typename", "__schema", "__type", "server", "register", "login", "refreshSession", "logout"}
"""What may be asked for without signing in."""
FOR_STRANGERS = {"viewer"}
"""Who shows a token that does not hold is not told that nobody is signed in, but to refresh the session."""
CACHED_DOCUMENTS = 128
CACHED_CHARACTERS = 16_384
"""Longer documents carry texts instead of variables: they never come again, and would fill the memory."""
MAX_ERRORS = 10
MAX_MESSAGE_CHARACTERS = 500
"""Of an error of the document, which may quote names and literals of any length."""
RULES = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)

Query = merge_types("Query", (ConversationQuery, TaskQuery, ModelQuery, ToolQuery, ServerQuery))
Mutation = merge_types("Mutation", (ReplyMutation, ApprovalMutation, ConversationMutation, AccountMutation))
Subscription = merge_types("Subscription", (ReplySubscription, FeedSubscription))


AMBIGUOUS = "Must provide operation name if query contains multiple operations."


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document within the limits, what is wrong with it, and the operations whose cost depends on variables."""

    document: DocumentNode
    errors: list[GraphQLError]
    varying_costs: dict[str | None, VaryingCost]


@lru_cache(maxsize=CACHED_DOCUMENTS)
def _prepared(schema: GraphQLSchema, query: str) -> Prepared:
    """Raises GraphQLError when the document cannot be parsed or is beyond a limit; it is not validated then."""
    document = limits.parsed(query)
    limits.check(document)
    varying_costs = check_costs(schema, document)
    errors = validate(schema, document, RULES, max_errors=MAX_ERRORS)
    return Prepared(document, [_of_the_document(error) for error in errors], varying_costs)


def _of_the_document(error: GraphQLError) -> GraphQLError:
    """Without the exception of the scalar that refused a literal, so that nobody takes it for a fault of ours."""
    message = without_values(error.message)
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[:MAX_MESSAGE_CHARACTERS]}…"
    return GraphQLError(message, nodes=error.nodes, source=error.source, positions=error.positions)


class OperationExtension(SchemaExtension):
    """Gives every operation a fresh context, parses and validates each document once, and reports how it ended."""

    errors_of_document: list[GraphQLError] | None = None

    def on_operation(self) -> Iterator[None]:
        execution = self.execution_context
        context = execution.context
        if not isinstance(context, Context):
            yield
            return
        execution.context = context.fresh()
        outcome = "error"
        try:
            yield
            outcome = "error" if execution.pre_execution_errors else "ok"
        except (GeneratorExit, CancelledError):  # the client left, which is its right
            outcome = "error" if execution.pre_execution_errors else "ok"
            raise
        finally:
            context.services.observe(*self._label(), outcome)

    def on_parse(self) -> Iterator[None]:
        """Raises GraphQLError, which the schema answers."""
        execution = self.execution_context
        query = execution.query or ""
        prepare = _prepared if len(query) <= CACHED_CHARACTERS else _prepared.__wrapped__
        prepared = prepare(execution.schema._schema, query)
        execution.graphql_document, self.errors_of_document = prepared.document, prepared.errors
        if not prepared.errors:
            self.errors_of_document = self._errors_of_request(prepared)
        yield

    def on_validate(self) -> Iterator[None]:
        self.execution_context.pre_execution_errors = self.errors_of_document
        yield

    def _errors_of_request(self, prepared: Prepared) -> list[GraphQLError]:
        """Why the operation is not executed, though its document is sound.

        GraphQL's GetOperation(): without a name there must be one operation, where Strawberry takes the first.
        """
        execution = self.execution_context
        operation = get_operation_ast(prepared.document, execution._provided_operation_name)
        if execution._provided_operation_name is None and operation is None:
            return [GraphQLError(AMBIGUOUS)]
        context, variables = execution.context, execution.variables
        try:
            if variables:
                limits.check_variables(variables)
            if cost := prepared.varying_costs.get(execution.operation_name):
                cost.check(variables)
        except GraphQLError as error:
            return [error]
        if isinstance(context, Context) and context.caller.identity is None and operation is not None:
            asked = set(_root_fields(prepared.document, operation))
            private = asked - PUBLIC - (FOR_STRANGERS if context.caller.stranger else set())
            return [refusal(context.caller.refusal)] if private else []
        return []

    def _label(self) -> tuple[str, str]:
        """Root field and type of the operation. Names that clients make up would be labels without number."""
        execution = self.execution_context
        document = execution.graphql_document
        if document is None or self.errors_of_document:
            return "invalid", "unknown"
        operation = get_operation_ast(document, execution.operation_name)
        if operation is None:
            return "invalid", "unknown"
        return next(_root_fields(document, operation)), operation.operation.value


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


def build_schema(unexpected: Unexpected | None = None) -> MaskingSchema:
    """The schema. `unexpected` is told of every error that is masked, with its correlation id."""
    schema = MaskingSchema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[*ERROR_TYPES, *REPLY_EVENT_TYPES, *CONVERSATION_EVENT_TYPES, TextPart, ReasoningPart, ToolCallPart],
        extensions=[OperationExtension],
        execution_context_class=ReplyExecutor,
        config=StrawberryConfig(scalar_map={datetime: DATE_TIME}),
    )
    if unexpected is not None:
        schema.unexpected = unexpected
    _drop_null_defaults(schema._schema)
    return schema


def _drop_null_defaults(schema: GraphQLSchema) -> None:
    """Python's `= None` means "may be left out", which nullable types say by themselves: no `= null` in the SDL."""
    for named in schema.type_map.values():
        if isinstance(named, GraphQLInputObjectType):
            inputs = list(named.fields.values())
        elif isinstance(named, GraphQLObjectType | GraphQLInterfaceType):
            inputs = [argument for field in named.fields.values() for argument in field.args.values()]
        else:
            continue
        for value in inputs:
            if value.default_value is None:
                value.default_value = Undefined


def sdl() -> str:
    """The schema in GraphQL's own language, as checked in at `schema.graphql`."""
    return print_schema(build_schema()) + "\n"
