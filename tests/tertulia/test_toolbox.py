"""The toolbox of a server: its own tools before those of MCP servers, and names in the settings that there are not."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tertulia import Registry, Settings, SettingsError, load_settings, tool
from tertulia.plugins import load_registry
from tertulia.services import open_services
from tertulia.toolbox import ServerToolbox, open_toolbox
from tests.doubles import ScriptedModel, WordCounter
from tests.providers.serving_mcp import FAKE


def configured(table: str, **settings: Any) -> Settings:
    Path("tertulia.toml").write_text(table)
    return load_settings(config=Path("tertulia.toml"), **settings)


async def opened(stack: AsyncExitStack, table: str, **settings: Any) -> ServerToolbox:
    chosen = configured(table, **settings)
    return await open_toolbox(chosen, load_registry(chosen), stack)


FAKE_TABLE = f'[mcp.fake]\ncommand = ["{sys.executable}", "{FAKE}", "faulty"]\n'


async def test_tools_are_in_the_order_of_their_names_wherever_they_are_from() -> None:
    async with AsyncExitStack() as stack:
        toolbox = await opened(stack, FAKE_TABLE, tools=("create_task", "fake_add"))
        names = [made.name for made in toolbox.tools()]
        assert names == sorted(names)
        assert {"create_task", "fake_add"} < set(names)


async def test_of_two_tools_with_one_name_the_servers_own_counts() -> None:
    @tool
    async def fake_add() -> None:
        """Ours."""

    registry = Registry()
    registry.add_tool(fake_add)
    async with AsyncExitStack() as stack:
        toolbox = await open_toolbox(configured(FAKE_TABLE), registry, stack)
        found = toolbox.get("fake_add")
        assert found is not None
        assert found.description == "Ours."
        assert [made.name for made in toolbox.tools()].count("fake_add") == 1


async def test_a_name_in_the_settings_that_no_tool_has_keeps_the_server_from_starting(tmp_path: Path) -> None:
    settings = load_settings(tools=("create_tasks",), database_url=f"sqlite:///{tmp_path}/test.db")
    with pytest.raises(SettingsError, match=r"^TERTULIA_TOOLS holds 'create_tasks', but there is no such tool"):
        async with open_services(settings, model=ScriptedModel(), tokens=WordCounter()):
            raise AssertionError


async def test_a_name_that_may_come_with_a_server_that_is_away_does_not() -> None:
    async with AsyncExitStack() as stack:
        toolbox = await opened(stack, "[mcp.gone]\ncommand = ['no-such-program']\n", tools=("gone_search",))
        assert toolbox.get("gone_search") is None
        assert toolbox.away() == ["gone"]
