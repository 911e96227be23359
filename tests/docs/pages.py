"""The code blocks of our pages, and whether what a command answered is what the page shows below it.

In an answer that is shown, … stands for any text; on a line of its own it stands for any lines.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>file|save as): (?P<name>\S+) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PREPARES = re.compile(r"\b(make|docker|npm|pip|tertulia serve)\b")


@dataclass(frozen=True)
class Block:
    """`file` is the file of the repository that the page shows here, `saved` the file its reader is to make of it."""

    page: str
    line: int
    language: str
    text: str
    file: str | None
    saved: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_command(self) -> bool:
        return self.language == "sh" and not PREPARES.search(self.text)


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [_block(page, text, found) for found in FENCE.finditer(text)]


def _block(page: str, text: str, found: re.Match[str]) -> Block:
    names = {found["mark"]: found["name"]}
    line = text.count("\n", 0, found.start("language")) + 1
    return Block(page, line, found["language"], found["text"], names.get("file"), names.get("save as"))


def line_of(page: str, title: str) -> int:
    """Where the section with this heading begins."""
    return (ROOT / page).read_text().splitlines().index(f"## {title}") + 1


def commands(page: str) -> Iterator[tuple[Block, Block | None]]:
    """Each command with the answer that is shown right below it, if there is one."""
    return ((block, below) for block, below in _answered(page) if block.is_command)


def programs(page: str) -> Iterator[tuple[Block, Block | None]]:
    """Each whole program that is shown for its own sake, with what it prints."""
    return (
        (block, below) for block, below in _answered(page) if block.language in ("python", "js") and block.file is None
    )


def _answered(page: str) -> Iterator[tuple[Block, Block | None]]:
    found = blocks(page)
    for block, below in zip(found, [*found[1:], None], strict=False):
        yield block, below if below is not None and below.language in ("json", "text") else None


def same(shown: Block, given: str) -> bool:
    if shown.language == "json":
        try:
            return _same_value(json.loads(shown.text), json.loads(given))
        except json.JSONDecodeError:
            return False
    return re.fullmatch("".join(map(_line_pattern, _lines(shown.text))), "".join(_lines(given))) is not None


def _lines(text: str) -> list[str]:
    """Without blank lines and without the comments that keep an event stream open."""
    return [f"{line.strip()}\n" for line in text.splitlines() if line.strip() and not line.startswith(":")]


def _line_pattern(line: str) -> str:
    return r"(?:.*\n)*" if line == "…\n" else _pattern(line)


def _pattern(text: str) -> str:
    return ".*".join(map(re.escape, text.split("…")))


def _same_value(shown: Any, given: Any) -> bool:
    if isinstance(shown, dict):
        return (
            isinstance(given, dict)
            and shown.keys() == given.keys()
            and all(_same_value(value, given[key]) for key, value in shown.items())
        )
    if isinstance(shown, list):
        return isinstance(given, list) and len(shown) == len(given) and all(map(_same_value, shown, given))
    if isinstance(shown, str) and isinstance(given, str):
        return re.fullmatch(_pattern(shown), given, re.DOTALL) is not None
    return type(shown) is type(given) and bool(shown == given)
