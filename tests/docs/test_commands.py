"""Every command of our pages is pasted into a real shell, and answers what the page shows."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, blocks, commands, programs, same
from tests.docs.reading import Informed, run_program, shell
from tests.serving import Serving, serving, settings_for

PAGES = ("README.md", "docs/from-rest.md", "docs/clients.md")
WITH_ACCOUNTS = ("docs/signing-in.md", "docs/accounts.md")
READER = {"email": "you@example.com", "password": "correct horse battery"}
REGISTER = "mutation ($input: RegisterInput!) { register(input: $input) { errors { message } } }"


@pytest.fixture
def informed() -> Informed:
    return Informed()


@pytest.fixture
async def server(tmp_path: Path, informed: Informed) -> AsyncIterator[Serving]:
    async with serving(settings_for(tmp_path), informed) as running:
        yield running


@pytest.fixture
async def accounts(tmp_path: Path, informed: Informed) -> AsyncIterator[Serving]:
    """A server with accounts, and with one of them."""
    async with serving(settings_for(tmp_path, auth="password", registration="open"), informed) as running:
        await running.ask(REGISTER, input=READER)
        yield running


@pytest.mark.parametrize("page", PAGES)
async def test_every_command_answers_what_the_page_shows(
    page: str, server: Serving, informed: Informed, tmp_path: Path
) -> None:
    await paste_all(page, server, informed, tmp_path)


@pytest.mark.parametrize("page", WITH_ACCOUNTS)
async def test_every_command_of_a_page_on_accounts_answers_what_the_page_shows(
    page: str, accounts: Serving, informed: Informed, tmp_path: Path
) -> None:
    await paste_all(page, accounts, informed, tmp_path)


async def paste_all(page: str, server: Serving, informed: Informed, folder: Path) -> None:
    async with shell(server.url, informed, folder) as reader:
        for command, shown in commands(page):
            given = await reader.paste(command)
            fits = same(shown, given) if shown is not None else is_fine(command, given)
            assert fits, f"{command} answered {given}"


def is_fine(command: Block, given: str) -> bool:
    """Where the page shows no answer: it has data, and no errors. Commands that only keep something are silent."""
    return given == "" if "curl " not in command.text else '"data"' in given and '"errors":[{' not in given


@pytest.mark.parametrize("program", list(programs("docs/clients.md")), ids=lambda pair: pair[0].language)
async def test_every_program_prints_what_the_page_shows(program: tuple[Block, Block | None], server: Serving) -> None:
    await run(program, server)


@pytest.mark.parametrize("program", list(programs("docs/signing-in.md")), ids=lambda pair: str(pair[0]))
async def test_every_program_that_signs_in_prints_what_the_page_shows(
    program: tuple[Block, Block | None], accounts: Serving
) -> None:
    await run(program, accounts)


async def run(program: tuple[Block, Block | None], server: Serving) -> None:
    block, shown = program
    assert shown is not None
    printed = await run_program(block, server)
    assert same(shown, printed), printed


@pytest.mark.parametrize("page", [*PAGES, *WITH_ACCOUNTS])
def test_every_curl_of_a_page_is_among_its_commands(page: str) -> None:
    written = sum(len(re.findall(r"\bcurl ", block.text)) for block in blocks(page) if block.language != "text")
    pasted = sum(len(re.findall(r"\bcurl ", command.text)) for command, _ in commands(page))
    assert pasted == written > 0


async def test_a_stream_that_broke_off_and_its_rest_are_the_whole_text(
    server: Serving, informed: Informed, tmp_path: Path
) -> None:
    async with shell(server.url, informed, tmp_path) as reader:
        for command, _ in commands("docs/from-rest.md"):
            await reader.paste(command)
            if "rest.txt" in command.text:
                break
    before, after = events(tmp_path / "stream.txt"), events(tmp_path / "rest.txt")
    assert before[-1]["__typename"] == "TextDelta"
    assert after[-1]["__typename"] == "ReplyFinished"
    assert text_of(before) + text_of(after) == after[-1]["reply"]["text"]


def events(stream: Path) -> list[dict[str, Any]]:
    data = (line.removeprefix("data: ") for line in stream.read_text().splitlines() if line.startswith("data: {"))
    return [json.loads(each)["data"]["replyStream"] for each in data]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["__typename"] == "TextDelta")


def shown(language: str, text: str) -> Block:
    return Block("a page", 1, language, text, None)


@pytest.mark.parametrize(
    ("language", "text", "given", "fits"),
    [
        ("json", '{"id": "conv_…", "n": 1}', '{"id":"conv_12","n":1}', True),
        ("json", '{"id": "conv_…", "n": 1}', '{"id":"msg_12","n":1}', False),
        ("json", '{"id": "conv_…", "n": 1}', '{"id":"conv_12","n":2}', False),
        ("json", '{"id": "conv_…"}', '{"id":"conv_12","more":2}', False),
        ("json", "[1, true]", "[1, 1]", False),
        ("json", "[]", "no JSON", False),
        ("text", "data: a\n…\ndata: d\n", ":\n\ndata: a\n\ndata: b\ndata: c\ndata: d\n", True),
        ("text", "data: a\n…\ndata: d\n", "data: a\ndata: d\n", True),
        ("text", "data: a\ndata: d\n", "data: a\ndata: b\ndata: d\n", False),
        ("text", "data: {…}\n", "data: {1}\n", True),
    ],
)
def test_what_a_page_shows_is_compared_closely(language: str, text: str, given: str, fits: bool) -> None:
    assert same(shown(language, text), given) is fits
