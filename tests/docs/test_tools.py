"""docs/tools.md as its readers follow it: they save its files, start a server with them, and paste its commands."""

import asyncio
import re
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp_server_time.server import create_server
from starlette.types import ASGIApp, Receive, Scope, Send

from tertulia.settings import load_settings
from tests.docs.pages import ROOT, blocks, commands, line_of, same
from tests.docs.reading import PATH, Informed, Shell, shell
from tests.docs.shopkeeper import shopkeeper
from tests.providers.endpoint import scripted_endpoint
from tests.serving import listening, serving

PAGE = "docs/tools.md"
SECTIONS = ("A tool in ten lines", "Approval", "MCP servers")
FILES = ("python", "toml", "ini")
PLUGINS = ("shop", "orders")
RANKS = Path(tempfile.gettempdir()) / "tertulia-ranks"
MCP_ADDRESS = "http://127.0.0.1:9000"
ORDERS = "SELECT call_id, article, count FROM orders"


def section(title: str) -> tuple[int, int]:
    """The lines of a section that is followed."""
    begin = line_of(PAGE, title)
    ends = (line_of(PAGE, each) for each in SECTIONS[SECTIONS.index(title) + 1 :])
    return begin, next(ends, len((ROOT / PAGE).read_text().splitlines()))


def save_files(until: int, folder: Path, mcp_url: str) -> None:
    """All files that the page shows before that line, the newer over the older."""
    for block in blocks(PAGE):
        if block.saved is not None and block.line < until:
            (folder / block.saved).write_text(block.text.replace(MCP_ADDRESS, mcp_url))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the reader works: the current folder, in which a server finds its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for plugin in PLUGINS:
        sys.modules.pop(plugin, None)


def ours(folder: Path) -> dict[str, object]:
    return {
        "database_url": f"sqlite:///{folder}/test.db",
        "cache_folder": RANKS,
        "log_level": "error",
        "shutdown_grace": 0,
    }


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[Shell]:
    """A shell beside a server with the files of the folder; only where the model and the data are is ours."""
    async with scripted_endpoint() as endpoint:
        endpoint.replies(*[shopkeeper] * 10)
        settings = load_settings(openai_base_url=endpoint.base_url, **ours(folder))
        async with serving(settings) as server, shell(server.url, Informed(), folder) as reader:
            yield reader


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


async def test_the_tool_of_the_page_answers_as_the_page_shows(folder: Path) -> None:
    pasted = section("A tool in ten lines")
    save_files(pasted[1], folder, MCP_ADDRESS)
    async with following(folder) as reader:
        await paste(reader, pasted)


async def test_two_clients_and_the_tool_of_the_page_come_to_one_order(folder: Path) -> None:
    pasted = section("Approval")
    save_files(pasted[1], folder, MCP_ADDRESS)
    async with following(folder) as reader:
        await asyncio.to_thread(make_tables, folder)
        await paste(reader, pasted)
    ((call_id, *ordered),) = rows(folder, ORDERS)
    assert (call_id[:5], ordered) == ("call_", ["lamp", 2])


async def test_the_mcp_servers_of_the_page_answer_as_the_page_shows(folder: Path) -> None:
    pasted, clock = section("MCP servers"), AskingForToken()
    async with listening(clock) as url:
        save_files(pasted[1], folder, url)
        async with following(folder) as reader:
            await paste(reader, pasted)
    assert clock.shown == {"Bearer the-token"}


def make_tables(folder: Path) -> None:
    with sqlite3.connect(folder / "test.db") as database:
        for block in blocks(PAGE):
            if block.language == "sql":
                database.execute(block.text)


def rows(folder: Path, query: str) -> list[tuple[str, str, int]]:
    with sqlite3.connect(folder / "test.db") as database:
        return database.execute(query).fetchall()


def test_every_command_of_the_page_is_pasted_and_every_file_is_saved() -> None:
    pasted = [command for command, _ in commands(PAGE) if command.line < SETTING_UP or in_a_section(command.line)]
    written = sum(len(re.findall(r"\bcurl ", block.text)) for block in blocks(PAGE))
    assert sum(len(re.findall(r"\bcurl ", command.text)) for command in pasted) == written > 0
    assert all(block.saved or "entry-points" in block.text for block in blocks(PAGE) if block.language in FILES)


def in_a_section(line: int) -> bool:
    return any(begin <= line < end for begin, end in map(section, SECTIONS))
