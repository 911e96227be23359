"""The tools of MCP servers, over both transports: how they are offered, and what comes of calls."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from domain.tools import ToolError, ToolSource
from providers.mcp import McpServers, open_mcp_servers
from tests.patience import PATIENCE_SECONDS
from tests.providers.serving_mcp import becomes, call, program, site, tool

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["program", "site"])
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[McpServers]:
    """The faulty server, over either transport, for all tests here: none of them breaks it."""
    async with AsyncExitStack() as stack:
        if request.param == "program":
            server = program("faulty")
        else:
            server = (await stack.enter_async_context(site("faulty"))).server
        yield await stack.enter_async_context(open_mcp_servers([server]))


async def test_a_servers_tools_have_its_name_before_theirs(servers: McpServers) -> None:
    add = tool(servers, "add")
    assert (add.name, add.title, add.description) == ("fake_add", "Add up", "Add two numbers.")
    assert (add.source, add.timeout) == (ToolSource.MCP, 30)
    assert add.parameters["required"] == ["a", "b"]


async def test_what_only_reads_needs_no_approval_and_may_be_repeated(servers: McpServers) -> None:
    made = {name: tool(servers, name) for name in ("add", "environment", "die")}
    assert {name: (t.needs_approval, t.idempotent) for name, t in made.items()} == {
        "add": (False, True),
        "environment": (True, True),
        "die": (True, False),
    }


async def test_arguments_are_checked_by_the_servers_schema(servers: McpServers) -> None:
    add = tool(servers, "add")
    assert add.check({"a": 1, "b": 2}) is None
    assert add.check({"a": "x", "b": 2}) == "a: 'x' is not of type 'integer'"
    assert add.check({"a": 1}) == "arguments: 'b' is a required property"


async def test_long_arguments_are_not_repeated(servers: McpServers) -> None:
    told = tool(servers, "add").check({"a": "x" * 1_000_000, "b": 2})
    assert told == 'a: does not keep to type: "integer"'


async def test_a_structured_result_is_given_as_it_is(servers: McpServers) -> None:
    assert await call(servers, "add", a=1, b=2) == {"result": 3}


async def test_content_is_text_and_a_word_on_what_is_none(servers: McpServers) -> None:
    assert await call(servers, "show") == "Look:\n[content of image/png, not shown]"


async def test_what_the_server_calls_a_failure_is_told_in_its_words(servers: McpServers) -> None:
    with pytest.raises(ToolError, match=r"^no luck x") as caught:
        await call(servers, "fail", length=1_000_000)
    assert len(str(caught.value)) == 4_000


async def test_calls_of_one_server_run_beside_each_other(servers: McpServers) -> None:
    hanging = asyncio.create_task(asyncio.wait_for(call(servers, "hang"), PATIENCE_SECONDS))
    sums = await asyncio.gather(*(call(servers, "add", a=number, b=1) for number in range(20)))
    assert sums == [{"result": number + 1} for number in range(20)]
    assert not hanging.done()
    hanging.cancel()


async def test_a_call_that_is_given_up_leaves_the_connection_usable(servers: McpServers) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await call(servers, "hang")
    assert await call(servers, "add", a=1, b=2) == {"result": 3}


async def test_ten_megabytes_are_taken_without_holding_the_others_up_for_long(servers: McpServers) -> None:
    began, result = time.perf_counter(), asyncio.create_task(call(servers, "big"))
    longest = before = 0.0
    while not result.done():
        before = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - before)
    assert len(str(await result)) == 10_000_000
    print(
        f"10 MB took {time.perf_counter() - began:.2f} s; the event loop was held for {longest * 1000:.0f} ms at most"
    )


async def test_tools_that_a_server_has_later_are_offered_later(servers: McpServers) -> None:
    await call(servers, "learn")
    await becomes(lambda: any(made.name == "fake_fresh" for made in servers.tools()))
    assert await call(servers, "fresh") == {"result": "fresh"}
