"""docs/tools.md as its readers follow it: they save its files, start a server with them, and paste its commands."""

import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp_server_time.server import create_server
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.docs.pages import blocks, commands, line_of, same
from tests.docs.reading import PATH, Informed, Shell, shell
from tests.docs.shopkeeper import shopkeeper
from tests.providers.endpoint import scripted_endpoint
from tests.serving import listening
from tests.system.processes import ServerProcess

PAGE = "docs/tools.md"
SECTIONS = ("A tool in ten lines", "Approval", "MCP servers")
MCP_ADDRESS = "http://127.0.0.1:9000"
ORDERS = "SELECT call_id, article, count FROM orders"


def section(title: str) -> tuple[int, int]:
    """The lines of a section that is followed."""
    begin = line_of(PAGE, title)
    ends = (line_of(PAGE, each) for each in SECTIONS[SECTIONS.index(title) + 1 :])
    return begin, next(ends, len(Path(PAGE).read_text().splitlines()))


def save_files(until: int, folder: Path, mcp_url: str) -> None:
    """All files that the page shows before that line, the newer over the older."""
    for block in blocks(PAGE):
        if block.saved is not None and block.line < until:
            (folder / block.saved).write_text(block.text.replace(MCP_ADDRESS, mcp_url))


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[ServerProcess]:
    """`tertulia serve` with the files of the folder; only the model's address and where data is kept are ours."""
    async with scripted_endpoint() as endpoint:
        endpoint.replies(*[shopkeeper] * 10)
        environment = {
            "PATH": PATH,
            "OPENAI_BASE_URL": endpoint.base_url,
            "DATABASE_URL": f"sqlite:///{folder}/test.db",
            "TERTULIA_CACHE_FOLDER": f"{tempfile.gettempdir()}/tertulia-ranks",
            "TERTULIA_SHUTDOWN_GRACE": "0",
        }
        process = ServerProcess(environment, folder)
        try:
            await process.start()
            yield process
        finally:
            await process.kill()


class AskingForToken:
    """A time server at an address, open to whoever shows the token of the page."""

    def __init__(self) -> None:
        self.shown: set[str] = set()
        self._app: ASGIApp = create_server("UTC").streamable_http_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.shown.add(dict(scope["headers"]).get(b"authorization", b"").decode())
        await self._app(scope, receive, send)


async def paste(reader: Shell, pasted: tuple[int, int]) -> None:
    begin, end = pasted
    for command, shown in commands(PAGE):
        if command.line < SETTING_UP or begin <= command.line < end:
            given = await reader.paste(command)
            assert same(shown, given) if shown is not None else given == "", f"{command} answered {given}"


SETTING_UP = line_of(PAGE, SECTIONS[0])


async def test_the_tool_of_the_page_answers_as_the_page_shows(tmp_path: Path) -> None:
    pasted = section("A tool in ten lines")
    save_files(pasted[1], tmp_path, MCP_ADDRESS)
    async with server(tmp_path) as running, shell(running.url, Informed(), tmp_path) as reader:
        await paste(reader, pasted)


async def test_two_clients_and_the_tool_of_the_page_come_to_one_order(tmp_path: Path) -> None:
    pasted = section("Approval")
    save_files(pasted[1], tmp_path, MCP_ADDRESS)
    async with server(tmp_path) as running, shell(running.url, Informed(), tmp_path) as reader:
        make_tables(tmp_path)
        await paste(reader, pasted)
    ((call_id, *ordered),) = rows(tmp_path, ORDERS)
    assert (call_id[:5], ordered) == ("call_", ["lamp", 2])


async def test_the_mcp_servers_of_the_page_answer_as_the_page_shows(tmp_path: Path) -> None:
    pasted, clock = section("MCP servers"), AskingForToken()
    async with listening(clock) as url:
        save_files(pasted[1], tmp_path, url)
        async with server(tmp_path) as running, shell(running.url, Informed(), tmp_path) as reader:
            await paste(reader, pasted)
    assert clock.shown == {"Bearer the-token"}


def make_tables(folder: Path) -> None:
    statement = next(block.text for block in blocks(PAGE) if block.language == "sql")
    with sqlite3.connect(folder / "test.db") as database:
        database.execute(statement)


def rows(folder: Path, query: str) -> list[tuple[str, str, int]]:
    with sqlite3.connect(folder / "test.db") as database:
        return database.execute(query).fetchall()
