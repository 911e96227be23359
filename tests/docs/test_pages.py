"""Our pages name everything there is, and nothing that is not there."""

import re
from collections.abc import Iterator
from enum import StrEnum

import pytest
import typer.main
from typer.core import TyperGroup
from typer.testing import CliRunner

from domain.errors import ErrorCode, ReplyErrorCode
from tertulia.cli import app
from tertulia.secret_files import SUFFIX
from tertulia.settings import Settings, is_path, variable
from tests.docs.pages import ROOT, Block, blocks

PAGES = sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
CONFIGURING = [*PAGES, ".env.example", "tertulia.example.toml", "Dockerfile", "compose.yaml"]
SETTINGS = {variable(name) for name in Settings.model_fields}
FILES = {variable(name) + SUFFIX for name, field in Settings.model_fields.items() if not is_path(field)}
CLIENT_FILES = {
    "apollo-client.mjs",
    "gql_client.py",
    "relay-network.mjs",
    "reply.mjs",
    "session.mjs",
    "sidebar.mjs",
    "sockets.mjs",
    "sse.mjs",
    "urql-client.mjs",
}
LINK = re.compile(r"\]\((?!https?:)(?P<page>[^)#]*)(?:#(?P<anchor>[^)]+))?\)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


# ── errors ──


def section(page: str, title: str) -> str:
    """What stands under the heading that begins so."""
    found = re.search(rf"^## {title}.*?(?=^## |\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group()


def rows(text: str) -> dict[str, list[str]]:
    """The rows of its tables: the first cell, and the others."""
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in lines}


@pytest.mark.parametrize(("title", "codes"), [("Refused", ErrorCode), ("Failed replies", ReplyErrorCode)])
def test_every_error_code_is_explained_with_what_to_do(title: str, codes: type[StrEnum]) -> None:
    explained = rows(section("docs/errors.md", title))
    del explained["code"], explained["---"]
    assert list(explained) == [code.value for code in codes]
    assert all(len(cells) == 3 and all(cells) for cells in explained.values())


# ── settings ──


def test_config_show_lists_every_setting_with_its_meaning() -> None:
    shown = CliRunner().invoke(app, ["config", "show"]).stdout.splitlines()
    meanings = dict(zip([line.removeprefix("# ").split("=")[0] for line in shown[1::2]], shown[::2], strict=True))
    assert meanings.keys() == SETTINGS
    assert all(re.fullmatch(r"# [A-Z].{15,}\.", meaning) for meaning in meanings.values())


@pytest.mark.parametrize("page", [page for page in CONFIGURING if (ROOT / page).exists()])
def test_a_page_names_only_settings_that_exist(page: str) -> None:
    named = set(re.findall(r"\b(?:TERTULIA_[A-Z_]+|OPENAI_[A-Z_]+|[A-Z_]*DATABASE_URL)\b", text_of(page)))
    assert named <= SETTINGS | FILES | {"TEST_DATABASE_URL"}


def test_the_example_environment_changes_nothing_until_it_is_filled_in() -> None:
    lines = [line for line in text_of(".env.example").splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(line.endswith("=") for line in lines)


# ── commands ──


def command_names(group: TyperGroup, *before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from command_names(command, *before, name)
        else:
            yield " ".join((*before, name))


def test_the_readme_names_every_command() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    listed = re.search(r"`tertulia ([^`]*\|[^`]*)`", text_of("README.md"))
    assert listed is not None
    assert set(listed[1].split(" | ")) == set(command_names(group))


# ── links and files ──


def anchors(page: str) -> set[str]:
    """Of the headings, as they are made by what shows our pages."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.finditer(prose):
        target = (ROOT / page).parent / link["page"] if link["page"] else ROOT / page
        assert target.exists(), link.group()
        if link["anchor"]:
            assert link["anchor"] in anchors(str(target.resolve().relative_to(ROOT))), link.group()


SHOWN_FILES = [block for page in PAGES for block in blocks(page) if block.file is not None]


@pytest.mark.parametrize("block", SHOWN_FILES, ids=str)
def test_a_page_shows_a_file_as_it_is(block: Block) -> None:
    assert block.file is not None
    assert block.text == text_of(block.file)


def test_the_pages_about_clients_show_the_files_that_are_tested() -> None:
    shown = {block.file for block in SHOWN_FILES if block.page in ("docs/clients.md", "docs/signing-in.md")}
    assert shown == {f"tests/clients/{name}" for name in CLIENT_FILES}
