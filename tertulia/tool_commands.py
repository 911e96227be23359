"""`tertulia tools`: every tool, and who can use it. Starts no server and opens no database."""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

import structlog
import typer

from domain.tools import Tool, ToolSource
from tertulia import catalogue
from tertulia.plugins import load_registry
from tertulia.registry import Registry
from tertulia.settings import Settings, SettingsError, load_settings
from tertulia.terminal import fail, printable
from tertulia.toolbox import ServerToolbox, connected_toolbox, missing_tool

SOURCES = {ToolSource.BUILT_IN: "built in", ToolSource.PLUGIN: "plugin", ToolSource.MCP: "MCP server"}
Facts = dict[str, Any]


def tools(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List all tools: those built in, of plugins, and of MCP servers, which are connected to."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        settings = load_settings()
        registry = load_registry(settings)
        listed, notes = asyncio.run(_listed(settings, registry))
        notes.append(_callers(settings, registry))
    except SettingsError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps([_facts(tool, settings) for tool in listed], indent=2))
    else:
        for tool in listed:
            _show(_facts(tool, settings))
    for note in notes:
        typer.echo(note, err=as_json)


async def _listed(settings: Settings, registry: Registry) -> tuple[Sequence[Tool], list[str]]:
    async with AsyncExitStack() as stack:
        toolbox = await connected_toolbox(settings, registry, stack)
        return toolbox.tools(), _notes(settings, toolbox)


def _facts(tool: Tool, settings: Settings) -> Facts:
    return {
        "name": tool.name,
        "title": tool.title,
        "source": tool.source.value,
        "offered": tool.name in settings.tools,
        "needs_approval": tool.needs_approval,
        "timeout": tool.timeout,
        "idempotent": tool.idempotent,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }


def _show(facts: Facts) -> None:
    typer.secho(facts["name"], bold=True, nl=False)
    typer.echo(f"  ({SOURCES[ToolSource(facts['source'])]}{', offered' if facts['offered'] else ''})")
    for line in facts["description"].splitlines():
        typer.echo(f"  {printable(line)}")
    typer.echo(f"  approval    {'each call' if facts['needs_approval'] else 'none'}")
    typer.echo(f"  timeout     {facts['timeout']:g} s")
    typer.echo(f"  idempotent  {'yes' if facts['idempotent'] else 'no'}")
    typer.echo(f"  schema      {json.dumps(facts['parameters'])}\n")


def _notes(settings: Settings, toolbox: ServerToolbox) -> list[str]:
    notes = [f"The MCP server {name} cannot be reached; its tools are not listed." for name in toolbox.away()]
    if not settings.tools:
        notes.append("None is offered: TERTULIA_TOOLS is empty, so only conversations and messages that name tools do.")
    if (missing := missing_tool(settings, toolbox)) is not None:
        notes.append(f"TERTULIA_TOOLS holds {missing!r}, but there is no such tool.")
    return notes


def _callers(settings: Settings, registry: Registry) -> str:
    providers = catalogue.configured_providers(settings, registry.providers)
    names = [model.name for provider in providers for model in provider.models if model.calls_tools]
    if names:
        return f"Models that can call tools: {', '.join(names)}."
    return "No model on offer can call tools; the demo model cannot. See OPENAI_API_KEY and TERTULIA_CONFIG."
