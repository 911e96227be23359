"""The whole schema: the roots merged, and the SDL that `schema.graphql` is printed from."""

from datetime import datetime
from functools import cache

from graphql import (
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    Undefined,
)
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.name_converter import NameConverter
from strawberry.tools import merge_types
from strawberry.utils.str_converters import to_camel_case

from graph.accounts import AccountMutation
from graph.approvals import ApprovalMutation
from graph.conversations import ConversationMutation, ConversationQuery
from graph.errors import ERROR_TYPES, Unexpected
from graph.execution import MaskingSchema
from graph.executor import ReplyExecutor
from graph.feed import EVENT_TYPES as CONVERSATION_EVENT_TYPES
from graph.feed import FeedSubscription
from graph.messages import ReasoningPart, TextPart, ToolCallPart
from graph.models import ModelQuery
from graph.nodes import DATE_TIME
from graph.replies import ReplyMutation
from graph.resolvers import call_directly
from graph.server import ServerQuery
from graph.streaming import EVENT_TYPES as REPLY_EVENT_TYPES
from graph.streaming import Subscription as ReplySubscription
from graph.tasks import TaskQuery
from graph.tools import ToolQuery

camel_case = cache(to_camel_case)
Query = merge_types("Query", (ConversationQuery, TaskQuery, ModelQuery, ToolQuery, ServerQuery))
Mutation = merge_types("Mutation", (ReplyMutation, ApprovalMutation, ConversationMutation, AccountMutation))
Subscription = merge_types("Subscription", (ReplySubscription, FeedSubscription))


class Names(NameConverter):
    """Strawberry's own, which asks for the name of each field of an input for each input."""

    def apply_naming_config(self, name: str) -> str:
        return camel_case(name)


def build_schema(unexpected: Unexpected | None = None) -> MaskingSchema:
    """The schema. `unexpected` is told of every error that is masked, with its correlation id."""
    schema = MaskingSchema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[*ERROR_TYPES, *REPLY_EVENT_TYPES, *CONVERSATION_EVENT_TYPES, TextPart, ReasoningPart, ToolCallPart],
        execution_context_class=ReplyExecutor,
        config=StrawberryConfig(scalar_map={datetime: DATE_TIME}, name_converter=Names()),
    )
    if unexpected is not None:
        schema.unexpected = unexpected
    _drop_null_defaults(schema._schema)
    call_directly(schema._schema, schema.schema_converter)
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
