"""The whole schema: the roots merged, limits on documents, and the SDL that `schema.graphql` is printed from."""

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache

from graphql import (
    DocumentNode,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    Undefined,
    parse,
)
from strawberry.extensions import SchemaExtension
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import validate_document
from strawberry.tools import merge_types

from graph.context import Context
from graph.conversations import ConversationMutation, ConversationQuery
from graph.errors import ERROR_TYPES, Unexpected
from graph.execution import MaskingSchema, ReplyExecutor
from graph.messages import ReasoningPart, TextPart
from graph.models import ModelQuery
from graph.nodes import DATE_TIME
from graph.replies import ReplyMutation
from graph.server import ServerQuery
from graph.streaming import EVENT_TYPES, Subscription

MAX_TOKENS = 1_000
CACHED_DOCUMENTS = 128

Query = merge_types("Query", (ConversationQuery, ModelQuery, ServerQuery))
Mutation = merge_types("Mutation", (ReplyMutation, ConversationMutation))


@lru_cache(maxsize=CACHED_DOCUMENTS)
def _parsed(query: str) -> DocumentNode:
    return parse(query, max_tokens=MAX_TOKENS)


_validated = lru_cache(maxsize=CACHED_DOCUMENTS)(validate_document)


class OperationExtension(SchemaExtension):
    """Gives every operation a fresh context, and parses and validates each document once."""

    def on_operation(self) -> Iterator[None]:
        context = self.execution_context.context
        if isinstance(context, Context):
            self.execution_context.context = context.fresh()
        yield

    def on_parse(self) -> Iterator[None]:
        if self.execution_context.query:
            self.execution_context.graphql_document = _parsed(self.execution_context.query)
        yield

    def on_validate(self) -> Iterator[None]:
        execution = self.execution_context
        assert execution.graphql_document is not None
        execution.pre_execution_errors = _validated(
            execution.schema._schema, execution.graphql_document, execution.validation_rules
        )
        yield


def build_schema(unexpected: Unexpected | None = None) -> MaskingSchema:
    """The schema. `unexpected` is told of every error that is masked, with its correlation id."""
    schema = MaskingSchema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[*ERROR_TYPES, *EVENT_TYPES, TextPart, ReasoningPart],
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
