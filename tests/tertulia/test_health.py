"""What the server answers beside GraphQL: the first page, health, readiness and metrics."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from persistence import schema
from persistence.database import Database
from tertulia import __version__
from tests.doubles import ScriptedModel, answer
from tests.postgres import drop_database, new_database
from tests.providers.endpoint import DONE, Reply, ScriptedEndpoint, finish, said, scripted_endpoint, status, stream
from tests.providers.endpoint import used as usage
from tests.serving import Serving, serving, settings_for

SEND = 'mutation { sendMessage(input: {text: "Hi", waitMs: 10000}) { reply { id status } errors { code } } }'
WATCH = "subscription ($id: ID!) { replyStream(replyId: $id) { __typename } }"


async def get(server: Serving, path: str, **headers: str) -> tuple[int, Any]:
    async with server.http.get(f"{server.url}{path}", headers=headers) as response:
        return response.status, await response.json()


async def metrics(server: Serving) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, in the order of the labels' names."""
    async with server.http.get(f"{server.url}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


# ── the first page ──


async def test_the_first_page_is_links_in_json_for_programs(server: Serving) -> None:
    status, body = await get(server, "/", accept="*/*")
    assert (status, body["name"], body["version"]) == (200, "tertulia", __version__)
    assert set(body["links"]) == {"graphql", "graphiql", "healthz", "readyz", "metrics"}


async def test_the_first_page_is_html_for_browsers_and_loads_nothing_from_elsewhere(server: Serving) -> None:
    async with server.http.get(server.url, headers={"accept": "text/html,*/*;q=0.8"}) as response:
        page = await response.text()
        assert response.content_type == "text/html"
        assert "default-src 'none'" in response.headers["content-security-policy"]
    assert '<a href="/graphiql">' in page
    assert "http" not in page.replace("healthz", "")[page.index("<ul>") :]


# ── health ──


async def test_healthz_is_ok_while_the_worker_works(server: Serving) -> None:
    assert await get(server, "/healthz") == (200, {"status": "ok"})


async def test_healthz_fails_once_the_worker_has_failed(server: Serving) -> None:
    server.running.worker.failure.set()
    assert (await get(server, "/healthz"))[0] == 503
    assert (await get(server, "/readyz"))[1]["checks"]["worker"] == "failed"


async def test_readyz_names_every_part(server: Serving) -> None:
    status, body = await get(server, "/readyz")
    assert (status, body["ready"]) == (200, True)
    assert body["checks"] == dict.fromkeys(("database", "migrations", "model", "worker", "draining"), "ok")


async def test_readyz_sends_traffic_elsewhere_while_the_server_drains(server: Serving) -> None:
    await server.running.worker.drain(0)
    status, body = await get(server, "/readyz")
    assert (status, body["ready"], body["checks"]["draining"]) == (503, False, "shutting down")


# ── without the database ──


@pytest.fixture
async def gone(postgres: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """A server whose database has just gone away."""
    url = await new_database(postgres)
    database = Database(url)
    await schema.upgrade(database)
    await database.close()
    async with serving(settings_for(tmp_path, database_url=url), ScriptedModel()) as server:
        assert (await get(server, "/readyz"))[0] == 200
        await drop_database(postgres, url)
        yield server


async def test_without_its_database_a_server_lives_but_is_not_ready(gone: Serving) -> None:
    status, body = await get(gone, "/readyz")
    assert (status, body["ready"], body["checks"]["database"]) == (503, False, "unreachable")
    assert (await get(gone, "/healthz"))[0] == 200


async def test_without_its_database_a_server_still_gives_metrics(gone: Serving) -> None:
    assert math.isnan((await metrics(gone))[("tertulia_replies_queued",)])


# ── metrics ──


@pytest.fixture
async def endpoint() -> AsyncIterator[ScriptedEndpoint]:
    async with scripted_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def real(tmp_path: Path, endpoint: ScriptedEndpoint) -> AsyncIterator[Serving]:
    """A server with the real client of a scripted endpoint."""
    settings = settings_for(tmp_path, openai_base_url=endpoint.base_url, model="gpt-4o", max_retries=1)
    async with serving(settings) as server:
        yield server


def whole(**tokens: int) -> Reply:
    return stream(said("Hello"), finish(), usage(**tokens), DONE)


async def test_operations_are_counted_by_name_type_and_outcome(server: Serving) -> None:
    await server.ask(SEND)
    await server.ask("{ server { version } }")
    await server.post({"query": "{ nothing }"})
    counted = {key[1:]: n for key, n in (await metrics(server)).items() if key[0] == "tertulia_operations_total"}
    assert counted[("sendMessage", "ok", "mutation")] == 1
    assert counted[("server", "ok", "query")] == 1
    assert sum(n for (_, outcome, _), n in counted.items() if outcome == "error") == 1
    assert not any("nothing" in key for key in counted)


async def test_replies_and_tokens_are_counted_by_model(real: Serving, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(whole(prompt_tokens=11, completion_tokens=7), status(400))
    await real.ask(SEND)
    await real.ask(SEND)
    seen = await metrics(real)
    assert seen[("tertulia_replies_total", "STOP", "gpt-4o")] == 1
    assert seen[("tertulia_replies_total", "ERROR", "gpt-4o")] == 1
    assert seen[("tertulia_tokens_total", "input", "gpt-4o")] >= 11
    assert seen[("tertulia_tokens_total", "output", "gpt-4o")] == 7


async def test_calls_of_the_provider_are_timed_and_their_failures_counted(
    real: Serving, endpoint: ScriptedEndpoint
) -> None:
    endpoint.replies(status(503, headers={"retry-after-ms": "1"}), whole())
    await real.ask(SEND)
    seen = await metrics(real)
    assert seen[("tertulia_provider_seconds_count", "gpt-4o", "STOP")] == 1
    assert seen[("tertulia_provider_seconds_count", "gpt-4o", "PROVIDER_UNAVAILABLE")] == 1
    assert seen[("tertulia_provider_seconds_sum", "gpt-4o", "STOP")] > 0
    assert seen[("tertulia_first_token_seconds_count", "gpt-4o")] == 1
    assert seen[("tertulia_provider_errors_total", "PROVIDER_UNAVAILABLE", "gpt-4o")] == 1
    assert seen[("tertulia_provider_retries_total", "PROVIDER_UNAVAILABLE", "gpt-4o")] == 1


async def test_the_journal_is_timed_and_its_events_counted(server: Serving) -> None:
    await server.ask(SEND)
    seen = await metrics(server)
    assert seen[("tertulia_journal_flush_seconds_count",)] >= 1
    assert seen[("tertulia_journal_events_total",)] >= 3


async def test_live_and_queued_replies_and_readers_are_gauges_that_return_to_zero(tmp_path: Path) -> None:
    gate = asyncio.Event()
    model = ScriptedModel([*answer("Hello")[:2], gate, *answer(" there.")[1:]])
    names = ("tertulia_replies_live", "tertulia_replies_queued", "tertulia_subscribers")
    async with serving(settings_for(tmp_path, max_live_replies=1), model) as server:
        live = (await server.ask(SEND.replace("waitMs: 10000", "waitMs: 0")))["sendMessage"]["reply"]["id"]
        async with reading(server, live):
            await server.ask(SEND.replace("waitMs: 10000", "waitMs: 0"))
            assert [(await metrics(server))[(name,)] for name in names] == [1, 1, 1]
            gate.set()
        await server.ask(SEND)
        assert [(await metrics(server))[(name,)] for name in names] == [0, 0, 0]


class reading:  # noqa: N801  used like a function
    """A reader of a reply by server-sent events: entered with its first event, left when the stream has ended."""

    def __init__(self, server: Serving, reply_id: str) -> None:
        self._request = server.http.post(
            f"{server.url}/graphql",
            json={"query": WATCH, "variables": {"id": reply_id}},
            headers={"accept": "text/event-stream"},
        )

    async def __aenter__(self) -> None:
        self._response = await self._request.__aenter__()
        await self._response.content.readuntil(b"\n\n")

    async def __aexit__(self, *_: object) -> None:
        await self._response.read()
        self._response.close()
