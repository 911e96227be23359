"""GraphQL over HTTP: statuses, media types, shapes and sizes. The audits of graphql-http are in tests/clients."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from graph.transport import Limits
from tests.doubles import ScriptedModel
from tests.graph.protocol import SECRET, WATCH, Api, api
from tests.serving import serving, settings_for

GRAPHQL_JSON = {"accept": "application/graphql-response+json"}
JSON = {"content-type": "application/json"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain() -> AsyncIterator[Api]:
    async with api(limits=Limits(body_bytes=2_000), graphiql_path="/graphiql") as made:
        yield made


async def answer(plain: Api, method: str = "POST", **options: Any) -> tuple[int, Any]:
    async with plain.http.request(method, f"{plain.url}/graphql", allow_redirects=False, **options) as response:
        assert response.content_type in ("application/json", "application/graphql-response+json"), response.content_type
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"null", 400),
        (b'"text"', 400),
        (b"[]", 400),
        (b'[{"query": "{ __typename }"}]', 400),
        (b"{}", 400),
        (b'{"query": null}', 400),
        (b'{"query": "\\ud800"}', 400),
        (b'{"query": "{ __typename }", "operationName": 1}', 400),
        (b'{"query": "{ __typename }", "variables": []}', 400),
        (b'{"query": "{ __typename }", "extensions": "x"}', 400),
        (b'{"query": "{ __typename }", "variables": ' + b"[" * 900 + b"]" * 900 + b"}", 400),
        (b'{"query": "query A { __typename }", "operationName": "A", "variables": null}', 200),
    ],
)
async def test_a_body_is_one_operation_or_is_refused_as_json(plain: Api, body: bytes, status: int) -> None:
    given, answered = await answer(plain, data=body, headers=JSON)
    assert (given, "errors" in answered) == (status, status != 200)


@pytest.mark.parametrize("kind", ["text/plain", "application/json-seq", "application/json; charset=utf-16", "é; x"])
async def test_only_json_in_utf_8_is_read(plain: Api, kind: str) -> None:
    body = b'{"query": "{ __typename }"}'
    assert (await answer(plain, data=body, headers={"content-type": kind}))[0] == 415


async def test_a_mutation_by_get_is_refused_with_the_method_it_needs(plain: Api) -> None:
    query = 'mutation { stopReply(input: {replyId: "x"}) { errors { message } } }'
    async with plain.http.get(f"{plain.url}/graphql", params={"query": query}) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_other_methods_are_refused_with_those_there_are(plain: Api, method: str) -> None:
    async with plain.http.request(method, f"{plain.url}/graphql") as response:
        assert (response.status, response.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("name", ["variables", "extensions"])
async def test_parameters_in_an_address_are_json_objects(plain: Api, name: str) -> None:
    query = {"query": "{ __typename }"}
    assert (await answer(plain, "GET", params=query | {name: "{"}))[0] == 400
    assert (await answer(plain, "GET", params=query | {name: "[]"}))[0] == 400
    assert (await answer(plain, "GET", params=query | {name: "{}"}))[0] == 200
    assert (await answer(plain, "GET", params=query | {name: ""}))[0] == 200


async def test_a_subscription_needs_a_stream(plain: Api) -> None:
    assert (await answer(plain, json={"query": WATCH}))[0] == 406


@pytest.mark.parametrize("query", ["{", "{ nothing }", "query ($n: Int!) { __typename @skip(if: false) }"])
async def test_a_refused_document_has_no_data_and_a_status_by_media_type(plain: Api, query: str) -> None:
    status, body = await answer(plain, json={"query": query})
    assert (status, body.keys()) == (200, {"errors"})
    status, body = await answer(plain, json={"query": query}, headers=GRAPHQL_JSON)
    assert (status, body.keys()) == (400, {"errors"})


async def test_a_wrong_variable_is_the_fault_of_the_request(plain: Api) -> None:
    query = "query ($id: ID!) { node(id: $id) { id } }"
    status, body = await answer(plain, json={"query": query, "variables": {"id": {}}}, headers=GRAPHQL_JSON)
    assert (status, body.keys()) == (400, {"errors"})


async def test_a_literal_that_a_scalar_refuses_is_explained_to_the_client(plain: Api) -> None:
    seed = '{role: USER, text: "x", createdAt: "yesterday"}'
    query = f"mutation {{ createConversation(input: {{history: [{seed}]}}) {{ errors {{ message }} }} }}"
    _, body = await answer(plain, json={"query": query})
    message = body["errors"][0]["message"]
    assert "DateTime" in message
    assert "yesterday" not in message


async def test_a_failing_field_leaves_an_answered_request(plain: Api) -> None:
    status, body = await answer(plain, json={"query": SECRET}, headers=GRAPHQL_JSON)
    assert (status, body["data"], body["errors"][0]["path"]) == (200, {"viewer": None}, ["viewer"])


async def test_a_body_above_the_limit_is_refused(plain: Api) -> None:
    long = {"query": "{ __typename }", "variables": {"text": "x" * 2_000}}
    status, body = await answer(plain, json=long)
    assert (status, "2000 bytes" in body["errors"][0]["message"]) == (413, True)


@pytest.mark.parametrize("variables", [{"history": [], "x": "x" * 2_000}, {"input": {"history": [], "x": "x" * 2_000}}])
async def test_a_body_with_history_in_its_variables_may_be_longer(plain: Api, variables: dict[str, Any]) -> None:
    created = {"query": "{ __typename } # createConversation", "variables": variables}
    assert (await answer(plain, json=created))[0] == 200
    assert (await answer(plain, json=created | {"query": "{ __typename }"}))[0] == 413


async def test_a_long_document_is_refused_whatever_is_in_it(plain: Api) -> None:
    query = 'mutation { createConversation(input: {history: [{text: "' + "x" * 2_000 + '"}]}) { __typename } }'
    assert (await answer(plain, json={"query": query}))[0] == 413
    assert (await answer(plain, json={"query": query, "variables": {"history": []}}))[0] == 413


async def test_a_browser_that_opens_the_address_is_sent_to_graphiql(plain: Api) -> None:
    page = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with plain.http.get(f"{plain.url}/graphql", headers=page, allow_redirects=False) as response:
        assert (response.status, response.headers["location"]) == (303, "/graphiql")


async def test_a_browser_is_told_what_is_missing_where_there_is_no_graphiql() -> None:
    async with api() as bare:
        assert (await answer(bare, "GET", headers={"accept": "text/html"}))[0] == 400


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/graphql-response+json, application/json;q=0.9", "application/graphql-response+json"),
        ("application/json, application/graphql-response+json", "application/json"),
        ("application/graphql-response+json;q=0.1, application/json", "application/json"),
        ("application/json;q=0, application/graphql-response+json", "application/graphql-response+json"),
        ("image/png", "application/json"),
        ("application/*", "application/json"),
        (";;;, ,q=x", "application/json"),
    ],
)
async def test_the_media_type_is_what_the_client_likes_best(plain: Api, accept: str, media_type: str) -> None:
    async with plain.post("{ __typename }", {"accept": accept}) as response:
        assert response.headers["content-type"] == f"{media_type}; charset=utf-8"


async def test_every_operation_is_reported_once_by_its_root_field(plain: Api) -> None:
    plain.plays()
    for query in (
        "query Mine { first: server { version } }",
        "query { ...F } fragment F on Query { ... on Query { server { version } } }",
        SECRET,
        "{ nothing }",
        "{",
        "{ __typename } fragment Unused on Query { __typename }",
    ):
        await answer(plain, json={"query": query})
    assert plain.observed == [
        ("server", "query", "ok"),
        ("server", "query", "ok"),
        ("viewer", "query", "error"),
        *[("invalid", "unknown", "error")] * 3,
    ]


async def test_answers_do_not_mix_when_requests_run_side_by_side(plain: Api) -> None:
    async def one(number: int) -> None:
        accept = GRAPHQL_JSON if number % 2 else {"accept": "application/json"}
        status, body = await answer(plain, json={"query": "{" if number % 3 else "{ __typename }"}, headers=accept)
        assert (status, "errors" in body) == (400 if number % 2 and number % 3 else 200, bool(number % 3))

    await asyncio.gather(*(one(number) for number in range(60)))


async def test_of_several_operations_one_must_be_named(plain: Api) -> None:
    several = {"query": "query A { __typename } query B { again: __typename }"}
    status, body = await answer(plain, json=several, headers=GRAPHQL_JSON)
    assert (status, body["errors"][0]["message"][:29]) == (400, "Must provide operation name if"[:29])
    status, body = await answer(plain, json=several | {"operationName": "B"}, headers=GRAPHQL_JSON)
    assert (status, body) == (200, {"data": {"again": "Query"}})


@pytest.mark.parametrize("accept", ["application/json", "application/graphql-response+json"])
async def test_who_asks_too_often_is_told_so_in_the_media_type_they_read(accept: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, auth="password", anonymous_operations_per_address=1)
    async with serving(settings, ScriptedModel()) as server:
        await server.post({"query": "{ server { version } }"})
        wanted = {"accept": f"{accept}, application/json;q=0.9"}
        body = {"query": "{ server { version } }"}
        async with server.http.post(f"{server.url}/graphql", json=body, headers=wanted) as response:
            answer = await response.json(content_type=None)
            assert (response.status, response.content_type) == (429, accept)
            assert int(response.headers["retry-after"]) > 0
    assert answer["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
    assert answer["errors"][0]["extensions"]["retryAfterMs"] > 0
