"""Tools for tests: any async function as a domain.tools.Tool, and a Toolbox of such."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.tools import TIMEOUT_SECONDS, Tool, ToolContext, ToolSource

Run = Callable[[ToolContext, Mapping[str, object]], Awaitable[object]]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass(frozen=True)
class StubTool:
    """A tool that wants a `city`, unless `needs` says otherwise."""

    name: str
    run: Run
    needs_approval: bool = False
    timeout: float = TIMEOUT_SECONDS
    idempotent: bool = False
    needs: tuple[str, ...] = ("city",)
    title: str = ""
    description: str = "Looks something up."
    parameters: Mapping[str, Any] = field(default_factory=lambda: SCHEMA)
    source: ToolSource = ToolSource.PLUGIN

    def check(self, arguments: Mapping[str, object]) -> str | None:
        missing = [name for name in self.needs if name not in arguments]
        return f"{missing[0]} is missing" if missing else None


class StubToolbox:
    def __init__(self, *tools: Tool) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def tools(self) -> Sequence[Tool]:
        return [self._tools[name] for name in sorted(self._tools)]

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def take_away(self, name: str) -> None:
        del self._tools[name]


def answering(result: object) -> Run:
    async def run(_context: ToolContext, _arguments: Mapping[str, object]) -> object:
        if isinstance(result, BaseException):
            raise result
        return result

    return run


@dataclass
class Gate:
    """A tool's function that waits: `entered` is set when it runs, and it answers when `open` is."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[str] = field(default_factory=list)

    async def __call__(self, context: ToolContext, _arguments: Mapping[str, object]) -> object:
        self.runs.append(context.call_id)
        self.entered.set()
        await self.open.wait()
        return "done"
