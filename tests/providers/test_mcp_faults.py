"""MCP servers with every fault: programs and addresses that die, hang, lie or never end; ours goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from aiohttp import web
from structlog.testing import capture_logs

from domain.tools import ToolUnreachable
from providers.mcp import open_mcp_servers
from providers.mcp_connection import McpServer
from tests.patience import PATIENCE_SECONDS
from tests.providers.serving_mcp import Site, becomes, call, program, runs, site, tool

SYSTEMS_OWN = ("LC_CTYPE", "__CF_USER_TEXT_ENCODING")


@pytest.fixture(autouse=True)
def every_line_is_logged() -> Iterator[None]:
    """Also where a server that was started in this process wants errors only."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


# ── what is offered ──


async def test_the_operator_may_take_some_tools_only() -> None:
    async with open_mcp_servers([program("faulty", tools=("add", "show"))]) as servers:
        assert [made.name for made in servers.tools()] == ["fake_add", "fake_show"]


async def test_five_hundred_tools_on_ten_pages_are_all_there() -> None:
    async with open_mcp_servers([program("many")]) as servers:
        assert len(servers.tools()) == 500
        assert await call(servers, "tool_499") == "tool 499"


async def test_of_an_endless_list_a_thousand_tools_are_taken() -> None:
    with capture_logs() as logs:
        async with open_mcp_servers([program("endless")]) as servers:
            assert len(servers.tools()) == 1_000
    assert [line["event"] for line in logs] == ["an MCP server lists too many tools"]


async def test_an_endless_list_of_nothing_ends_too() -> None:
    async with open_mcp_servers([program("hollow")]) as servers:
        assert servers.tools() == []
        assert servers.away() == []


async def test_tools_with_broken_schemas_or_taken_names_are_left_out_and_named() -> None:
    with capture_logs() as logs:
        async with open_mcp_servers([program("broken")]) as servers:
            assert [made.name for made in servers.tools()] == ["fake_elsewhere", "fake_fine", "fake_a_b"]
    assert {line["tool"]: line["reason"] for line in logs} == {
        "broken0": "its schema is no JSON Schema",
        "broken1": "its schema has more than 100000 characters",
        "a_b": "another has its name",
    }


async def test_a_schema_that_is_elsewhere_is_not_fetched_and_the_server_checks_itself() -> None:
    async with open_mcp_servers([program("broken")]) as servers:
        assert tool(servers, "elsewhere").check({"a": 1}) is None
        assert await call(servers, "elsewhere", a=1) == "elsewhere"


# ── servers that go away ──


async def test_a_call_whose_program_dies_ends_at_once_and_it_is_started_again() -> None:
    async with open_mcp_servers([program("faulty")]) as servers:
        with pytest.raises(ToolUnreachable, match="went away during the call"):
            await asyncio.wait_for(call(servers, "die"), PATIENCE_SECONDS)
        with pytest.raises(ToolUnreachable, match="cannot be reached"):
            await asyncio.wait_for(call(servers, "add", a=1, b=2), PATIENCE_SECONDS)
        await becomes(lambda: servers.away() == [])
        assert await call(servers, "add", a=1, b=2) == {"result": 3}


async def test_a_call_whose_site_dies_ends_at_once_and_it_is_found_again_when_it_is_back() -> None:
    async with site("faulty") as served, open_mcp_servers([served.server]) as servers:
        with pytest.raises(ToolUnreachable, match="went away during the call"):
            await asyncio.wait_for(call(servers, "die"), PATIENCE_SECONDS)
        with pytest.raises(ToolUnreachable):
            await asyncio.wait_for(call(servers, "add", a=1, b=2), PATIENCE_SECONDS)
        assert "fake_add" in [made.name for made in servers.tools()]
        await served.start()
        await becomes(lambda: servers.away() == [])
        assert await call(servers, "add", a=1, b=2) == {"result": 3}


async def test_a_server_that_is_away_at_the_start_keeps_nothing_from_starting_and_is_found_later() -> None:
    served = Site("faulty")
    await served.start()
    await served.kill()
    try:
        async with open_mcp_servers([served.server, program("many")]) as servers:
            assert (servers.away(), len(servers.tools())) == (["fake"], 500)
            await served.start()
            await becomes(lambda: servers.away() == [])
            assert await call(servers, "add", a=1, b=2) == {"result": 3}
    finally:
        await served.kill()


async def test_a_program_that_cannot_be_started_is_a_warning_with_the_reason() -> None:
    with capture_logs() as logs:
        async with open_mcp_servers([McpServer("none", command=("no-such-program",))]) as servers:
            assert servers.away() == ["none"]
    assert (logs[0]["server"], logs[0]["log_level"]) == ("none", "warning")
    assert "No such file or directory: 'no-such-program'" in logs[0]["reason"]


# ── what is kept from whom ──


async def test_a_program_gets_the_variables_it_was_promised_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    monkeypatch.setenv("CLOCK_ZONE", "UTC")
    async with open_mcp_servers([program("faulty", env={"CLOCK_ZONE": "UTC"})]) as servers:
        result = await call(servers, "environment")
    assert isinstance(result, dict)
    names = result["result"].split()
    assert "CLOCK_ZONE" in names
    assert set(names) <= {"CLOCK_ZONE", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", *SYSTEMS_OWN}


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_token_is_sent_to_its_server_and_to_nobody_whom_that_names() -> None:
    asked: list[tuple[str, str | None]] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(("elsewhere", request.headers.get("authorization")))
        return web.Response()

    async with answering(elsewhere) as other:

        async def redirect(request: web.Request) -> web.Response:
            asked.append(("here", request.headers.get("authorization")))
            raise web.HTTPTemporaryRedirect(f"{other}/mcp")

        async with answering(redirect) as url, open_mcp_servers([McpServer("a", url=url, token="s3cret")]) as servers:
            assert servers.away() == ["a"]
    assert set(asked) == {("here", "Bearer s3cret")}


# ── the end ──


@pytest.mark.parametrize("kind", ["faulty", "deaf"])
async def test_no_program_outlives_the_context(kind: str) -> None:
    async with open_mcp_servers([program(kind)]) as servers:
        result = await call(servers, "process")
        assert isinstance(result, dict)
        assert runs(result["result"])
    assert not runs(result["result"])


async def test_a_call_that_runs_at_the_end_is_told_that_its_server_is_gone() -> None:
    async with open_mcp_servers([program("faulty")]) as own:
        running = asyncio.create_task(call(own, "hang"))
        await asyncio.sleep(0)
    with pytest.raises(ToolUnreachable):
        await asyncio.wait_for(running, PATIENCE_SECONDS)
