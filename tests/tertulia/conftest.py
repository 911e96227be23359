"""Every test of this folder runs in an empty folder of its own, so that no .env and no .data of the checkout is met."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERTULIA_CACHE_FOLDER", str(Path(tempfile.gettempdir()) / "tertulia-ranks"))


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A server that starts in the test's process sets logging up for the streams of the moment; undone afterwards."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
