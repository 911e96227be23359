"""How operations are executed: our executor, and errors masked on every path.

The executor remembers collected subfields by the field *nodes*. graphql-core 3.3.2 keys that memo by the identity of
a list which is new for every event of a subscription, so its memo grows with the stream (about 1.5 KB per event) and
is never hit; keyed by nodes, which live as long as the document, memory stays flat and events are cheaper.
"""

from typing import Any

import strawberry
from graphql import GraphQLObjectType
from graphql.execution.collect_fields import CollectedFields, FieldDetailsList, collect_subfields
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.schema._graphql_core import ResultType
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types import ExecutionContext, ExecutionResult

from graph.errors import Unexpected, masked


class ReplyExecutor(StrawberryGraphQLCoreExecutionContext):
    def collect_subfields(
        self, return_type: GraphQLObjectType, field_details_list: FieldDetailsList
    ) -> CollectedFields:
        memo: dict[Any, Any] = self._relevant_sub_fields
        key = (return_type, *(id(details.node) for details in field_details_list))
        collected = memo.get(key)
        if collected is None:
            collected = memo[key] = collect_subfields(
                self.schema,
                self.fragments,
                self.variable_values,
                self.operation,
                return_type,
                field_details_list,
                self.hide_suggestions,
            )
        return collected


class MaskingSchema(strawberry.Schema):
    """A schema whose unexpected errors go out under a correlation id only."""

    unexpected: Unexpected = staticmethod(lambda _id, _error: None)

    async def _handle_execution_result(
        self,
        context: ExecutionContext,
        result: ResultType,
        extensions_runner: SchemaExtensionsRunner,
        *,
        skip_process_errors: bool = False,
    ) -> ExecutionResult:
        if isinstance(result, ExecutionResult) or hasattr(result, "errors"):
            if result.errors:
                result.errors = [masked(error, self.unexpected) for error in result.errors]
        return await super()._handle_execution_result(context, result, extensions_runner, skip_process_errors=True)

    def process_errors(self, errors: list[Any], execution_context: ExecutionContext | None = None) -> None:
        """Nothing: `unexpected` has logged what needs logging, and users' mistakes do not."""
