"""The refresh token in a cookie: scripts never see it, other sites cannot use it, and a sign-out removes it."""

import json
from collections.abc import AsyncIterator
from http.cookies import Morsel, SimpleCookie
from typing import Any

import pytest
import pytest_asyncio

from tests.doubles import ScriptedModel
from tests.graph.protocol import MULTIPART, SSE
from tests.security.people import (
    CHANGE,
    FRIEND,
    LOGIN,
    LOGOUT,
    PASSWORD,
    REFRESH,
    REGISTER,
    bearing,
    guarded,
    ready_socket,
)
from tests.security.people import code_of as code_of_token
from tests.serving import Serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAME = "tertulia_refresh"
EVIL = "https://stranger.example"
EMAIL = "ada@example.org"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    folder = tmp_path_factory.mktemp("cookies")
    async with guarded(folder, ScriptedModel(), refresh_cookie=True, allowed_origins=(FRIEND,)) as running:
        await told(running, REGISTER, {"email": EMAIL, "password": PASSWORD})
        yield running


async def told(
    server: Serving, mutation: str, input_: dict[str, Any], **headers: str
) -> tuple[dict[str, Any], Morsel[str] | None, str]:
    """The payload, the cookie that comes with it, and the body as it is."""
    body = {"query": mutation, "variables": {"input": input_}}
    async with server.http.post(f"{server.url}/graphql", json=body, headers=headers) as response:
        text = await response.text()
        jar = SimpleCookie()
        for header in response.headers.getall("set-cookie", []):
            jar.load(header)
    server.http.cookie_jar.clear()
    (payload,) = json.loads(text)["data"].values()
    return payload, jar.get(NAME), text


async def signed_in(server: Serving) -> tuple[str, str]:
    """An access token, and the refresh token of the cookie."""
    payload, cookie, _ = await told(server, LOGIN, {"email": EMAIL, "password": PASSWORD})
    assert cookie is not None
    return payload["accessToken"], cookie.value


def carrying(token: str) -> dict[str, str]:
    return {"cookie": f"{NAME}={token}"}


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(server: Serving) -> None:
    access, token = await signed_in(server)
    for mutation, input_, headers in (
        (REGISTER, {"email": "bob@example.org", "password": PASSWORD}, {}),
        (LOGIN, {"email": EMAIL, "password": PASSWORD}, {}),
        (REFRESH, {}, carrying(token)),
        (CHANGE, {"currentPassword": PASSWORD, "newPassword": PASSWORD}, bearing(access)),
    ):
        payload, cookie, text = await told(server, mutation, input_, **headers)
        assert payload["errors"] == []
        assert payload["refreshToken"] is None
        assert cookie is not None
        assert cookie.value not in text
        assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "strict")
        assert (cookie["path"], cookie["domain"]) == ("/graphql", "")
        assert cookie["expires"]


async def test_the_cookie_refreshes_and_is_replaced(server: Serving) -> None:
    _, first = await signed_in(server)
    payload, second, _ = await told(server, REFRESH, {}, **carrying(first))
    assert second is not None
    assert second.value != first
    assert await code_of_token(server, payload["accessToken"]) is None


async def test_a_refusal_sets_no_cookie(server: Serving) -> None:
    for mutation, input_ in ((LOGIN, {"email": EMAIL, "password": "a wrong password"}), (REFRESH, {})):
        payload, cookie, _ = await told(server, mutation, input_)
        assert payload["errors"]
        assert cookie is None


async def test_the_cookie_is_no_access_token(server: Serving) -> None:
    _, token = await signed_in(server)
    async with server.http.post(
        f"{server.url}/graphql", json={"query": "{ models { name } }"}, headers=carrying(token)
    ) as response:
        assert response.status == 401


async def test_a_logout_removes_the_cookie_and_ends_its_session(server: Serving) -> None:
    access, token = await signed_in(server)
    payload, cookie, _ = await told(server, LOGOUT, {}, **carrying(token))
    assert payload["errors"] == []
    assert cookie is not None
    assert (cookie.value, cookie["path"], cookie["max-age"]) == ("", "/graphql", "0")
    assert await code_of_token(server, access) == "UNAUTHENTICATED"
    refused, cookie, _ = await told(server, REFRESH, {}, **carrying(token))
    assert refused["errors"][0]["code"] == "SESSION_EXPIRED"
    assert cookie is None


@pytest.mark.parametrize(
    ("mutation", "input_"),
    [
        (LOGIN, {"email": EMAIL, "password": PASSWORD}),
        (REFRESH, {}),
        (CHANGE, {"currentPassword": PASSWORD, "newPassword": "battery staple"}),
        (REGISTER, {"email": "eve@example.org", "password": PASSWORD}),
    ],
)
@pytest.mark.parametrize("transport", ["socket", "sse", "multipart"])
async def test_where_no_cookie_can_be_set_nothing_is_done(
    server: Serving, mutation: str, input_: dict[str, Any], transport: str
) -> None:
    """The token could only be in the answer, or would be lost, and its loss would look like a theft."""
    access, token = await signed_in(server)
    operation = {"query": mutation, "variables": {"input": input_}}
    if transport == "socket":
        async with ready_socket(server.url, access) as socket:
            await socket.send(type="subscribe", id="1", payload=operation)
            text = json.dumps(await socket.receive())
    else:
        headers = {"sse": SSE, "multipart": MULTIPART}[transport] | bearing(access) | carrying(token)
        async with server.http.post(f"{server.url}/graphql", json=operation, headers=headers) as response:
            text = await response.text()
            assert "set-cookie" not in response.headers
    assert "FORBIDDEN" in text
    assert "accessToken" not in text.replace('"accessToken":null', "").replace('"accessToken": null', "")
    assert (await told(server, REFRESH, {}, **carrying(token)))[0]["errors"] == []
    assert (await told(server, LOGIN, {"email": EMAIL, "password": PASSWORD}))[0]["errors"] == []


# ── other sites ──


async def test_a_foreign_page_is_not_let_in_by_its_preflight(server: Serving) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    for origin, allowed in ((EVIL, None), ("null", None), (FRIEND, FRIEND)):
        async with server.http.options(f"{server.url}/graphql", headers=asked | {"origin": origin}) as response:
            assert response.headers.get("access-control-allow-origin") == allowed
            assert response.ok is (allowed is not None)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_page_may_send_without_preflight_is_not_read(server: Serving, kind: str) -> None:
    _, token = await signed_in(server)
    body = json.dumps({"query": REFRESH, "variables": {"input": {}}})
    headers = carrying(token) | {"origin": EVIL, "content-type": kind}
    async with server.http.post(f"{server.url}/graphql", data=body, headers=headers) as response:
        assert response.status == 415
        assert "set-cookie" not in response.headers
        assert "access-control-allow-origin" not in response.headers
    assert (await told(server, REFRESH, {}, **carrying(token)))[0]["errors"] == []


async def test_a_link_does_not_refresh(server: Serving) -> None:
    _, token = await signed_in(server)
    query = {"query": "mutation { refreshSession(input: {}) { accessToken } }"}
    async with server.http.get(f"{server.url}/graphql", params=query, headers=carrying(token)) as response:
        assert response.status == 405
        assert "set-cookie" not in response.headers


async def test_an_answer_to_a_foreign_page_is_not_for_its_scripts(server: Serving) -> None:
    body = {"query": "{ server { version } }"}
    for origin, allowed in ((EVIL, None), (FRIEND, FRIEND)):
        async with server.http.post(f"{server.url}/graphql", json=body, headers={"origin": origin}) as response:
            assert response.headers.get("access-control-allow-origin") == allowed
