"""Tools as decorated Python functions: `@tool` makes a tool of a function, its signature and its docstring.

Knows nothing of how tools are registered, offered or run in replies.
"""

import asyncio
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

from pydantic_core import to_jsonable_python

from domain.tools import NAME, TIMEOUT_SECONDS, ToolContext, ToolError, ToolSource
from tertulia.tool_schemas import Signature, signature_of
from tertulia.tool_threads import ToolThreads

THREADS = ToolThreads(16)
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A `domain.tools.Tool` that is a Python function."""

    function: Function
    signature: Signature
    name: str
    title: str
    description: str
    parameters: Mapping[str, Any]
    needs_approval: bool
    timeout: float
    idempotent: bool
    source: ToolSource = ToolSource.PLUGIN

    def check(self, arguments: Mapping[str, object]) -> str | None:
        return self.signature.mistakes(arguments)

    async def run(self, context: ToolContext, arguments: Mapping[str, object]) -> object:
        if (mistakes := self.check(arguments)) is not None:
            raise ToolError(mistakes)
        values = self.signature.values(arguments)
        if self.signature.context is not None:
            values[self.signature.context] = context
        if inspect.iscoroutinefunction(self.function):
            return _jsonable(await self.function(**values))
        return await asyncio.wrap_future(THREADS.submit(partial(_called, self.function, values)))


def _called(function: Function, values: Mapping[str, Any]) -> object:
    return _jsonable(function(**values))


def _jsonable(result: object) -> object:
    return to_jsonable_python(result, inf_nan_mode="null")


@overload
def tool(function: Function, /) -> FunctionTool: ...


@overload
def tool(
    *,
    name: str | None = None,
    title: str | None = None,
    needs_approval: bool = False,
    timeout: float = TIMEOUT_SECONDS,
    idempotent: bool = False,
) -> Callable[[Function], FunctionTool]: ...


def tool(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    title: str | None = None,
    needs_approval: bool = False,
    timeout: float = TIMEOUT_SECONDS,
    idempotent: bool = False,
) -> FunctionTool | Callable[[Function], FunctionTool]:
    """Make a tool of a function, bare or with keywords; raises TypeError with one sentence when it is not fit for one.

    The first paragraph of the docstring tells the model what the tool does, a section `Args:` what its parameters
    mean; their annotations are the schema. A parameter that is annotated ToolContext is given the context of the call.
    A plain function runs in a thread; only an async one may call `context.work()`.

    `needs_approval`: each call waits for the user's consent. `timeout`: seconds a call may take. `idempotent`: a call
    may be repeated when it is not known whether it took effect.
    """

    def made(function: Function) -> FunctionTool:
        called = name if name is not None else str(getattr(function, "__name__", ""))
        if not re.fullmatch(NAME, called):
            raise TypeError(f"A tool cannot be called {called!r}; its name must match {NAME}.")
        if not 0 < timeout < math.inf:
            raise TypeError(f"The timeout of the tool {called} is {timeout}; it must be a number of seconds above 0.")
        signature = signature_of(function)
        return FunctionTool(
            function=function,
            signature=signature,
            name=called,
            title=title or called.replace("_", " ").capitalize(),
            description=signature.description,
            parameters=signature.schema,
            needs_approval=needs_approval,
            timeout=timeout,
            idempotent=idempotent,
        )

    return made if function is None else made(function)
