"""What the code keeps to everywhere: sizes, imports, no mocks, nothing of anybody's machine, no way out of it."""

import ast
import re
import socket
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback import BeyondLoopback

ROOT = Path(__file__).parents[2]
PACKAGES = ("domain", "persistence", "providers", "graph", "tertulia")
MOST_LINES = 400
LONGEST_FUNCTION = 60
MACHINES = re.compile(r"(?<![\w.~$}])/(?:home|root|Users|work)/\w")
REGISTRIES = re.compile(r"(?:registry\.npmjs|registry\.yarnpkg|pypi|pythonhosted)\.(?:org|com)", re.IGNORECASE)
ADDRESSES_IN_LOCKS = re.compile(r'"https?://|^--(?:extra-)?index-url|^--find-links|@ https?:', re.MULTILINE)
LOCKS = ("requirements/*.txt", "**/package-lock.json")


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts
    )


def tracked_files() -> list[Path]:
    """Of the repository, with those that are not yet committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in python_files(*folders):
        yield path, ast.parse(path.read_text())


# ── sizes ──


def test_no_file_is_longer_than_one_reads_at_a_time() -> None:
    lines = {short(path): path.read_text().count("\n") for path in python_files(*PACKAGES, "tests")}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path, tree in trees(*PACKAGES, "tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


# ── what is written, and what is not ──


def test_every_file_of_a_package_says_what_it_is_for() -> None:
    silent = [short(path) for path, tree in trees(*PACKAGES) if tree.body and ast.get_docstring(tree) is None]
    assert silent == []


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_is_mocked() -> None:
    mocks = [
        f"{short(path)}: {name}"
        for path, tree in trees(*PACKAGES, "tests")
        for name in imported(tree)
        if name.startswith(("unittest.mock", "mock", "pytest_mock"))
    ]
    assert mocks == []


def comments(path: Path) -> Iterator[tokenize.TokenInfo]:
    with tokenize.open(path) as file:
        yield from (token for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT)


def test_every_ignored_type_error_says_which() -> None:
    bare = [
        f"{short(path)}:{comment.start[0]}"
        for path in python_files(*PACKAGES, "tests")
        for comment in comments(path)
        if re.search(r"type:\s*ignore(?!\[)", comment.string)
    ]
    assert bare == []


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> Iterator[str]:
    for path in paths:
        text = path.read_text(errors="replace")
        yield from (
            f"{short(path)}:{text.count(chr(10), 0, hit.start()) + 1} {hit[0]}" for hit in pattern.finditer(text)
        )


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    assert list(lines_with(MACHINES, tracked_files())) == []


def test_no_file_names_a_package_registry() -> None:
    assert list(lines_with(REGISTRIES, tracked_files())) == []


def test_lock_files_hold_hashes_and_no_addresses() -> None:
    locks = [path for path in tracked_files() if any(path.match(pattern) for pattern in LOCKS)]
    assert len(locks) >= 4
    assert list(lines_with(ADDRESSES_IN_LOCKS, locks)) == []
    assert all("--hash=sha256:" in (text := path.read_text()) or '"integrity": "sha512-' in text for path in locks)


# ── who imports whom ──


def test_the_layers_import_only_downwards() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    checked = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# ── nothing leaves this machine ──

ELSEWHERE = ("192.0.2.1", 443)


def test_a_test_that_would_connect_to_another_machine_fails() -> None:
    with socket.socket() as client, pytest.raises(BeyondLoopback):
        client.connect(ELSEWHERE)


def test_a_test_that_would_ask_for_the_address_of_another_machine_fails() -> None:
    with pytest.raises(BeyondLoopback):
        socket.create_connection(("models.example.com", 443))


def test_a_test_that_would_listen_for_other_machines_fails() -> None:
    with socket.socket() as listener, pytest.raises(BeyondLoopback):
        listener.bind(("0.0.0.0", 0))


def test_a_test_may_listen_and_talk_on_loopback() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(("localhost", listener.getsockname()[1])):
            pass
