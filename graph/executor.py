"""The executor of operations: graphql-core's, with what can be known of a document found out once.

It remembers collected subfields and plans by the field *nodes*, with the document where it can. graphql-core 3.3.2 keys
that memo by the identity of a list which is new for every event of a subscription, so its memo grows with the stream
(about 1.5 KB per event) and is never hit; keyed by nodes, which live as long as the document, memory stays flat and
events are cheaper. Knows nothing of who asks, and how results are told apart.
"""

from typing import Any, cast

from graphql import GraphQLError, GraphQLObjectType, GraphQLSchema
from graphql.execution import default_field_resolver, default_type_resolver, get_variable_values
from graphql.execution.collect_fields import CollectedFields, FieldDetailsList, collect_fields, collect_subfields
from graphql.pyutils import Path
from strawberry.execution.is_awaitable import optimized_is_awaitable
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from graph.context import Context
from graph.encoded import EncodedResult
from graph.operations import AskedOperation, Memo
from graph.plans import Asker, Show, event_plan, object_plan

MAX_VARIABLE_ERRORS = 50
"""graphql-core's own default for those of a whole execution."""


class ReplyExecutor(StrawberryGraphQLCoreExecutionContext):
    """Shows by plans what has one, see `plans.py`."""

    _plans: dict[Any, Any]

    @classmethod
    def of(cls, schema: GraphQLSchema, asked: AskedOperation, context: Any) -> "ReplyExecutor | list[GraphQLError]":  # noqa: ANN401
        """For an operation that is not refused, as `build` makes it; the errors of the variables where they are wrong.

        What `build` finds out of the document is known already.
        """
        prepared, operation = asked.prepared, asked.operation
        assert prepared is not None
        if operation is None:
            found = cls.build(schema, prepared.document, operation_name=asked.name)
            return cast("list[GraphQLError]", found)
        variables = get_variable_values(
            schema, operation.variable_definitions or (), asked.variables or {}, max_errors=MAX_VARIABLE_ERRORS
        )
        if isinstance(variables, list):
            return variables
        executor = cls(
            schema,
            prepared.definitions,
            prepared.fragments,
            None,
            context,
            operation,
            variables,
            default_field_resolver,
            default_type_resolver,
            default_field_resolver,
            is_awaitable=cast("Any", optimized_is_awaitable),
        )
        memo = prepared.memo or Memo()
        executor._relevant_sub_fields = memo.subfields
        executor._plans = memo.plans
        return executor

    def execute_operation(self, serially: bool | None = None) -> Any:  # noqa: ANN401  graphql-core's
        """An operation of one field needs none of what keeps several in their order."""
        fields, deferred, _ = self._root_fields()
        if deferred or len(fields) != 1:
            return super().execute_operation(serially)
        ((name, details),) = fields.items()
        try:
            root = cast("GraphQLObjectType", self.schema.get_root_type(self.operation.operation))
            value = self.execute_field(root, self.root_value, details, Path(None, name, root.name), None)
        except GraphQLError as error:
            return self._without_data(error)
        return self._awaited(name, value) if self.is_awaitable(value) else self.build_response({name: value})

    async def _awaited(self, name: str, value: Any) -> Any:  # noqa: ANN401
        try:
            return self.build_response({name: await value})
        except GraphQLError as error:
            return self._without_data(error)

    def _without_data(self, error: GraphQLError) -> Any:  # noqa: ANN401
        self.collected_errors.add(error, None)
        return self.build_response(None)

    def _root_fields(self) -> CollectedFields:
        memo: dict[Any, Any] = self._relevant_sub_fields
        key = id(self.operation)
        if key not in memo:
            memo[key] = collect_fields(
                self.schema,
                self.fragments,
                self.variable_values,
                cast("GraphQLObjectType", self.schema.get_root_type(self.operation.operation)),
                self.operation,
                self.hide_suggestions,
            )
        return cast("CollectedFields", memo[key])

    def planned(self, event: object) -> EncodedResult | None:
        """The result of an event of this subscription; None where it has to be executed."""
        key = (id(self.operation), type(event))
        if key not in self._plans:
            self._plans[key] = event_plan(self, type(event))
        plan = self._plans[key]
        return None if plan is None else cast("EncodedResult | None", self._tried(plan.result, event))

    def plan_of(self, object_type: GraphQLObjectType, details: FieldDetailsList) -> Show | None:
        key = (object_type, *(id(each.node) for each in details))
        if key not in self._plans:
            self._plans[key] = object_plan(self, object_type, details)
        return cast("Show | None", self._plans[key])

    def collect_and_execute_subfields(
        self,
        return_type: GraphQLObjectType,
        field_details_list: FieldDetailsList,
        path: Any,  # noqa: ANN401  graphql-core's, as the next one
        result: Any,  # noqa: ANN401
        position_context: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        plan = self.plan_of(return_type, field_details_list)
        shown = None if plan is None else self._tried(plan, result)
        if shown is not None:
            return shown
        return super().collect_and_execute_subfields(return_type, field_details_list, path, result, position_context)

    def _tried(self, show: Show, value: object) -> Any:  # noqa: ANN401
        """None where execution has to show it, which counts by itself what it shows."""
        context = self.context_value
        counted = context.characters if isinstance(context, Context) else 0
        try:
            return show(value, Asker(context))
        except Exception:
            if isinstance(context, Context):
                context.characters = counted
            return None

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
