"""How operations are executed: their results, errors masked on every path, and results told apart for the transports.

Of Strawberry this takes types and resolvers, and graphql-core's executor, but not what it does around an operation for
extensions and middleware: we have none, and that cost more than the resolvers. What needs no execution goes by plans.

Nothing here knows transports: how each kind of result is put on the wire is theirs.
"""

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import strawberry
from graphql import GraphQLError
from graphql.execution import create_source_event_stream
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from domain.errors import ErrorCode
from graph.context import Context
from graph.encoded import EncodedResult
from graph.errors import Unexpected, masked
from graph.executor import ReplyExecutor
from graph.lanes import LANE
from graph.operations import AskedOperation

ABOUT_THE_REQUEST = (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError)
Result = ExecutionResult | EncodedResult


@dataclass
class Interrupted(ExecutionResult):
    """A subscription that could not go on, or not begin yet: the same one may work again in a moment.

    Strawberry hands on an exception of a subscription's generator as one more result, after which the stream ends as
    if it were whole. This type tells the transports to break off instead, so that the client resumes.
    """


class MaskingSchema(strawberry.Schema):
    """A schema whose unexpected errors go out under a correlation id only.

    Its results are of four kinds: ExecutionResult, or EncodedResult where that was written by a plan;
    PreExecutionError where the request was refused before anything was executed, which has no `data`; Interrupted.
    """

    unexpected: Unexpected = staticmethod(lambda _id, _error: None)

    async def execute(self, *asked: Any, **options: Any) -> Any:  # noqa: ANN401  as `stream` has them
        """The last result of `stream`."""
        results = await self.stream(*asked, **options)
        async with aclosing(results):
            return [result async for result in results][-1]

    async def stream(
        self,
        query: str | None,
        variable_values: dict[str, Any] | None = None,
        context_value: Any | None = None,  # noqa: ANN401
        root_value: Any | None = None,  # noqa: ANN401
        operation_name: str | None = None,
        operation_extensions: dict[str, Any] | None = None,
        allowed_operation_types: Iterable[OperationType] | None = None,
    ) -> Any:  # noqa: ANN401
        """The results of one operation, executed with a fresh context. Who stops before the last closes the generator.

        There is no root value, and nobody here reads the extensions of a request.
        """
        allowed = tuple(OperationType if allowed_operation_types is None else allowed_operation_types)
        asked = AskedOperation(query, variable_values, operation_name)
        if not isinstance(context_value, Context):
            return self._results(asked, context_value, allowed)
        return self._observed(asked, context_value.fresh(), allowed)

    async def _observed(
        self, asked: AskedOperation, context: Context, allowed: Collection[OperationType]
    ) -> AsyncGenerator[Result, None]:
        """Reports how the operation ended. A client that leaves has a right to it."""
        ends, outcome = "ok", "error"
        try:
            async with aclosing(self._results(asked, context, allowed)) as results:
                async for result in results:
                    if isinstance(result, ExecutionResult) and result.errors:
                        ends = "error"
                    yield result
            outcome = ends
        except (GeneratorExit, CancelledError):
            outcome = ends
            raise
        finally:
            context.services.observe(*asked.label, outcome)

    async def _results(
        self,
        asked: AskedOperation,
        context: Any,  # noqa: ANN401
        allowed: Collection[OperationType],
    ) -> AsyncGenerator[Result, None]:
        caller = context.caller if isinstance(context, Context) else None
        if refusals := asked.refusals(self._schema, allowed, caller):
            yield self._without_data(asked, PreExecutionError(None, refusals))
            return
        executor = ReplyExecutor.of(self._schema, asked, context)
        if not isinstance(executor, ReplyExecutor):
            yield self._without_data(asked, PreExecutionError(None, executor))
        elif asked.subscribes:
            async with aclosing(self._events(asked, executor)) as events:
                async for result in events:
                    yield result
        else:
            yield await self._result(asked, executor)

    async def _result(self, asked: AskedOperation, executor: ReplyExecutor) -> Result:
        try:
            executed: Any = executor.execute_operation()
            if executor.is_awaitable(executed):
                executed = await executed
        except Exception as error:
            return self._without_data(asked, PreExecutionError(None, [_of_graphql(error)]))
        return self._shown(asked, executed)

    async def _events(self, asked: AskedOperation, executor: ReplyExecutor) -> AsyncGenerator[Result, None]:
        if (lane := LANE.get()) is not None:
            lane.planned = executor.planned
        try:
            source: Any = create_source_event_stream(executor)
            if executor.is_awaitable(source):
                source = cast("Any", await source)
            if not executor.is_async_iterable(source):
                yield self._without_data(asked, PreExecutionError(None, source.errors))
                return
            async with aclosing(cast("AsyncGenerator[object, None]", source)) as events:
                async for event in events:
                    yield executor.planned(event) or await self._event(asked, executor, event)
        except Exception as error:
            yield self._without_data(asked, ExecutionResult(None, [_of_graphql(error)]))

    async def _event(self, asked: AskedOperation, executor: ReplyExecutor, event: object) -> Result:
        executed: Any = executor.build_per_event_executor(event).execute_operation(False)
        return self._shown(asked, await executed if executor.is_awaitable(executed) else executed)

    def _shown(self, asked: AskedOperation, executed: Any) -> ExecutionResult:  # noqa: ANN401  graphql-core's
        result = ExecutionResult(executed.data, executed.errors)
        if result.data is None and result.errors:
            return self._without_data(asked, result)
        result.errors = None if result.errors is None else [self._masked(error) for error in result.errors]
        return result

    def _without_data(self, asked: AskedOperation, result: ExecutionResult) -> ExecutionResult:
        """Which kind a result without data is. Errors of execution have a path, those of the request have none."""
        errors = [self._masked(error) for error in result.errors or []]
        refused = isinstance(result, PreExecutionError)
        if asked.subscribes:
            unavailable = any((error.extensions or {}).get("code") == ErrorCode.UNAVAILABLE.value for error in errors)
            return PreExecutionError(None, errors) if refused and not unavailable else Interrupted(None, errors)
        if refused or all(error.path is None for error in errors):
            return PreExecutionError(None, errors)
        return ExecutionResult(None, errors)

    def _masked(self, error: GraphQLError) -> GraphQLError:
        return error if isinstance(error.original_error, ABOUT_THE_REQUEST) else masked(error, self.unexpected)


def _of_graphql(error: Exception) -> GraphQLError:
    return error if isinstance(error, GraphQLError) else GraphQLError(str(error), original_error=error)
