"""The tools that models may be offered: the type and the query."""

from collections.abc import Iterable

import strawberry
from strawberry.scalars import JSON

from domain import tools as domain
from graph.context import Info
from graph.values import shown_json

strawberry.enum(domain.ToolSource, description="BUILT_IN: of the server itself. PLUGIN, MCP: added by the operator.")


@strawberry.type(description="What a model can be offered to call.")
class Tool:
    value: strawberry.Private[domain.Tool]
    name: str
    title: str | None
    needs_approval: bool = strawberry.field(description="Each call waits for `resolveToolCall`.")
    source: domain.ToolSource

    @classmethod
    def of(cls, value: domain.Tool) -> "Tool":
        return cls(
            value=value,
            name=value.name,
            title=value.title or None,
            needs_approval=value.needs_approval,
            source=value.source,
        )

    @strawberry.field(description="For the model.")
    def description(self, info: Info) -> str:
        return info.context.shown(self.value.description)

    @strawberry.field(description="A JSON Schema of the arguments.")
    def parameters(self, info: Info) -> JSON:
        return shown_json(info, self.value.parameters)


def tools_named(info: Info, names: Iterable[str]) -> list[Tool]:
    """Those of the names that are tools now."""
    toolbox = info.context.services.toolbox
    return [Tool.of(tool) for tool in map(toolbox.get, names) if tool is not None]


@strawberry.type
class ToolQuery:
    @strawberry.field(
        description="Tools that `settings.tools` may name. Models with the capability TOOLS can call them."
    )
    def tools(self, info: Info) -> list[Tool]:
        return [Tool.of(tool) for tool in info.context.services.toolbox.tools()]
