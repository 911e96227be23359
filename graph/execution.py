"""How operations are executed: our executor, errors masked on every path, and results told apart for the transports.

The executor remembers collected subfields by the field *nodes*. graphql-core 3.3.2 keys that memo by the identity of
a list which is new for every event of a subscription, so its memo grows with the stream (about 1.5 KB per event) and
is never hit; keyed by nodes, which live as long as the document, memory stays flat and events are cheaper.

Nothing here knows transports: how each kind of result is put on the wire is theirs.
"""

from dataclasses import dataclass
from typing import Any

import strawberry
from graphql import GraphQLError, GraphQLObjectType
from graphql.execution import ExperimentalIncrementalExecutionResults
from graphql.execution.collect_fields import CollectedFields, FieldDetailsList, collect_subfields
from strawberry.exceptions import MissingQueryError
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.schema._graphql_core import ResultType
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from domain.errors import ErrorCode
from graph.encoded import EncodedResult
from graph.errors import Unexpected, masked
from graph.lanes import LANE
from graph.plans import Plan, Planned, plan_for

ABOUT_THE_REQUEST = (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError)


class ReplyExecutor(StrawberryGraphQLCoreExecutionContext):
    """Answers events of subscriptions by plans, see `plans.py`, and remembers collected fields."""

    _plans: dict[type, Plan | None] | None = None

    def build_per_event_executor(self, payload: object) -> Any:  # noqa: ANN401  an Executor, or what stands for one
        plan = self.plan_of(type(payload))
        return super().build_per_event_executor(payload) if plan is None else Planned(plan, payload)

    def plan_of(self, kind: type) -> Plan | None:
        plans = self._plans
        if plans is None:
            plans = self._plans = {}
            if (lane := LANE.get()) is not None:
                lane.plan_of = self.plan_of
        if kind not in plans:
            plans[kind] = plan_for(self, kind)
        return plans[kind]

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


@dataclass
class Interrupted(ExecutionResult):
    """A subscription that could not go on, or not begin yet: the same one may work again in a moment.

    Strawberry hands on an exception of a subscription's generator as one more result, after which the stream ends as
    if it were whole. This type tells the transports to break off instead, so that the client resumes.
    """


class MaskingSchema(strawberry.Schema):
    """A schema whose unexpected errors go out under a correlation id only.

    Its results are of four kinds: ExecutionResult; PreExecutionError where the request was refused before anything
    was executed, which has no `data`; Interrupted; and, from `execute` alone, never from `stream`, an exception of
    ABOUT_THE_REQUEST.
    """

    unexpected: Unexpected = staticmethod(lambda _id, _error: None)

    async def _prepare_operation_async(
        self, context: ExecutionContext, extensions_runner: SchemaExtensionsRunner
    ) -> PreExecutionError | None:
        """A document that our extension refuses by GraphQLError is the client's mistake, where Strawberry crashes."""
        try:
            return await super()._prepare_operation_async(context, extensions_runner)
        except GraphQLError as error:
            context.pre_execution_errors = [error]
            return PreExecutionError(None, [error])

    async def _handle_execution_result(
        self,
        context: ExecutionContext,
        result: ResultType | EncodedResult,
        extensions_runner: SchemaExtensionsRunner,
        *,
        skip_process_errors: bool = False,
    ) -> Any:  # noqa: ANN401  an EncodedResult stays what it is
        if isinstance(result, EncodedResult):
            return result
        if not isinstance(result, ExperimentalIncrementalExecutionResults) and result.errors:
            result.errors = [self._shown(error) for error in result.errors]
        handled = await super()._handle_execution_result(context, result, extensions_runner, skip_process_errors=True)
        return handled if handled.data is not None or not handled.errors else _without_data(context, handled)

    def _shown(self, error: GraphQLError) -> GraphQLError:
        return error if isinstance(error.original_error, ABOUT_THE_REQUEST) else masked(error, self.unexpected)

    def process_errors(self, errors: list[Any], execution_context: ExecutionContext | None = None) -> None:
        """Nothing: `unexpected` has logged what needs logging, and users' mistakes do not."""


def _without_data(context: ExecutionContext, result: ExecutionResult) -> ExecutionResult:
    """Which kind a result without data is. Errors of execution have a path, those of the request have none."""
    errors = result.errors or []
    refused = isinstance(result, PreExecutionError)
    if _subscribes(context):
        unavailable = any((error.extensions or {}).get("code") == ErrorCode.UNAVAILABLE.value for error in errors)
        return result if refused and not unavailable else Interrupted(None, errors, result.extensions)
    if not refused and all(error.path is None for error in errors):
        return PreExecutionError(None, errors, result.extensions)
    return result


def _subscribes(context: ExecutionContext) -> bool:
    try:
        return context.operation_type is OperationType.SUBSCRIPTION
    except RuntimeError:  # the document could not be parsed, or has no such operation
        return False
