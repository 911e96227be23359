"""`tertulia tools`: every tool with its facts, also of MCP servers, and who is offered them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tertulia.cli import app

SERVERS = f"""
[mcp.clock]
command = [{json.dumps(sys.executable)}, "-m", "mcp_server_time"]
tools = ["get_current_time"]
needs_approval = true
"""


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["tools", *arguments], env=environment)


def as_json(**environment: str) -> dict[str, Any]:
    ended = run("--json", **environment)
    assert ended.exit_code == 0, ended.stderr
    return {listed["name"]: listed for listed in json.loads(ended.stdout)}


def config(text: str) -> str:
    Path("tertulia.toml").write_text(text)
    return "tertulia.toml"


def test_the_built_in_tools_are_listed_with_their_facts() -> None:
    shown = run().stdout
    assert "create_task  (built in)\n  Add a task to the user's task list.\n" in shown
    assert "  approval    none\n  timeout     30 s\n  idempotent  no\n  schema      {" in shown


def test_it_says_that_none_is_offered_and_that_no_model_can_call_them() -> None:
    shown = run().stdout
    assert "None is offered: TERTULIA_TOOLS is empty" in shown
    assert "No model on offer can call tools; the demo model cannot." in shown


def test_it_says_which_are_offered_and_which_models_can_call_them() -> None:
    named = config(
        "[providers.a]\nbase_url = 'http://127.0.0.1:1/v1'\n"
        "models = [{name = 'able', capabilities = ['TOOLS']}, {name = 'plain', capabilities = []}]"
    )
    shown = run(TERTULIA_TOOLS="create_task", TERTULIA_CONFIG=named).stdout
    assert "create_task  (built in, offered)" in shown
    assert "list_tasks  (built in)" in shown
    assert "Models that can call tools: able." in shown
    assert "None is offered" not in shown


def test_as_json_only_the_tools_are_on_standard_output() -> None:
    listed = as_json()
    assert listed["list_tasks"]["source"] == "BUILT_IN"
    assert listed["list_tasks"]["parameters"]["type"] == "object"
    assert "None is offered" in run("--json").stderr


def test_the_tools_of_an_mcp_server_are_listed_as_its_table_says() -> None:
    listed = as_json(TERTULIA_CONFIG=config(SERVERS))
    assert [name for name in listed if name.startswith("clock_")] == ["clock_get_current_time"]
    clock = listed["clock_get_current_time"]
    assert (clock["source"], clock["needs_approval"], clock["idempotent"]) == ("MCP", True, True)
    assert "timezone" in clock["parameters"]["properties"]


def test_a_server_that_cannot_be_reached_is_named_and_the_rest_is_listed() -> None:
    ended = run(TERTULIA_CONFIG=config("[mcp.gone]\ncommand = ['no-such-program']"))
    assert ended.exit_code == 0
    assert "The MCP server gone cannot be reached; its tools are not listed." in ended.stdout
    assert "create_task" in ended.stdout


def test_a_name_in_the_settings_that_no_tool_has_is_pointed_out() -> None:
    assert (
        "TERTULIA_TOOLS holds 'create_tasks', but there is no such tool." in run(TERTULIA_TOOLS="create_tasks").stdout
    )


def test_what_a_plugin_writes_gives_no_orders_to_the_terminal() -> None:
    Path("escapes.py").write_text(
        "def odd() -> None:\n    '''Ring \\x1b]0;owned\\x07.'''\n\ndef setup(registry): registry.add_tool(odd)\n"
    )
    shown = run(TERTULIA_PLUGINS="escapes").stdout
    assert "\x1b]0" not in shown
    assert "owned" in shown


@pytest.mark.parametrize(
    "entry", ["env = ['CLOCK_ZONE']\ncommand = ['x']", "url = 'http://127.0.0.1:1'\ntoken_env = 'CLOCK_ZONE'"]
)
def test_a_variable_that_a_server_is_given_and_that_is_not_set_ends_it_with_a_sentence(entry: str) -> None:
    assert "CLOCK_ZONE" not in os.environ
    ended = run(TERTULIA_CONFIG=config(f"[mcp.clock]\n{entry}"))
    assert ended.exit_code == 1
    assert ended.stderr == (
        "tertulia: CLOCK_ZONE is not set, but the MCP server 'clock' in the file that TERTULIA_CONFIG names is given "
        "it.\n"
    )
