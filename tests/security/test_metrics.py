"""Who may read the metrics: nobody else but the machine itself, unless there is a token."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import ScriptedModel
from tests.serving import Serving, serving, settings_for

TOKEN = "a-token-of-24-characters"


@asynccontextmanager
async def with_settings(folder: Path, **settings: Any) -> AsyncIterator[Serving]:
    async with serving(settings_for(folder, **settings), ScriptedModel()) as server:
        yield server


async def status(server: Serving, authorization: str | None = None) -> int:
    headers = {} if authorization is None else {"authorization": authorization}
    async with server.http.get(f"{server.url}/metrics", headers=headers) as response:
        text = await response.text()
        assert ("tertulia_operations" in text) == (response.status == 200)
        assert TOKEN not in text
        return response.status


async def test_a_server_that_only_this_machine_reaches_shows_them(tmp_path: Path) -> None:
    async with with_settings(tmp_path) as server:
        assert await status(server) == 200


async def test_a_server_that_others_reach_does_not_unless_it_is_told_how(tmp_path: Path) -> None:
    async with with_settings(tmp_path, host="0.0.0.0", allow_anonymous=True) as server:
        assert await status(server) == 404
    async with with_settings(tmp_path, host="0.0.0.0", allow_anonymous=True, metrics_token=TOKEN) as server:
        assert await status(server, f"Bearer {TOKEN}") == 200


@pytest.mark.parametrize("wrong", [None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", "Bearer ü"])
async def test_with_a_token_nobody_reads_them_without(tmp_path: Path, wrong: str | None) -> None:
    async with with_settings(tmp_path, metrics_token=TOKEN) as server:
        assert await status(server, wrong) == 401
        assert await status(server, f"Bearer {TOKEN}") == 200
