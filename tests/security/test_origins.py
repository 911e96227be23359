"""Which web pages may use the API: one setting, and the same answer by HTTP and by WebSocket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tertulia.settings import load_settings
from tests.doubles import ScriptedModel, answer
from tests.graph.protocol import MULTIPART, SSE, raw_socket
from tests.serving import Serving, serving, settings_for

LISTED = "https://chat.example.com"
OTHER = "http://localhost:5173"
SEND = 'mutation { sendMessage(input: {text: "Hi"}) { reply { id } } }'
COUNT = "{ conversations(first: 10) { nodes { id } } }"
WATCH = 'subscription { replyStream(replyId: "none") { cursor } }'
FOREIGN = [
    "https://stranger.example",
    "null",
    "HTTPS://CHAT.EXAMPLE.COM",
    "https://Chat.Example.com",
    "http://chat.example.com",
    "https://chat.example.com:8443",
    "https://chat.example.com:443",
    "https://chat.example.com/",
    "https://chat.example.com.evil.com",
    "https://evilchat.example.com",
    "https://me@chat.example.com",
    "https://sub.chat.example.com",
    "*",
]


@asynccontextmanager
async def for_origins(folder: Path, *origins: str) -> AsyncIterator[Serving]:
    async with serving(settings_for(folder, allowed_origins=origins), ScriptedModel(answer("Hello"))) as server:
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with for_origins(tmp_path, LISTED, OTHER) as server:
        yield server


async def readable_by_http(server: Serving, origin: str) -> bool:
    """Whether a browser lets a page of this origin ask, and read the answer."""
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    async with server.http.options(f"{server.url}/graphql", headers=asked) as preflight:
        before = preflight.status == 200 and preflight.headers.get("access-control-allow-origin") in (origin, "*")
    async with server.http.post(f"{server.url}/graphql", json={"query": COUNT}, headers={"origin": origin}) as response:
        after = response.headers.get("access-control-allow-origin") in (origin, "*")
    assert before == after
    return before


async def gets_a_socket(server: Serving, origin: str | None) -> bool:
    try:
        async with raw_socket(server.url, origin=origin):
            return True
    except InvalidStatus:
        return False


@pytest.mark.parametrize("origin", [LISTED, OTHER])
async def test_a_listed_origin_may_do_both(server: Serving, origin: str) -> None:
    assert await readable_by_http(server, origin)
    assert await gets_a_socket(server, origin)


@pytest.mark.parametrize("origin", FOREIGN)
async def test_any_other_origin_may_do_neither(server: Serving, origin: str) -> None:
    assert not await readable_by_http(server, origin)
    assert not await gets_a_socket(server, origin)


async def test_without_an_origin_there_is_no_web_page_to_keep_out(server: Serving) -> None:
    await server.ask(COUNT)
    assert await gets_a_socket(server, None)


async def test_our_own_pages_need_not_be_listed(server: Serving) -> None:
    await server.ask(COUNT, headers={"origin": server.url})
    assert await gets_a_socket(server, server.url)


async def test_by_default_no_page_but_our_own_may_do_either(tmp_path: Path) -> None:
    async with for_origins(tmp_path) as server:
        assert not await readable_by_http(server, LISTED)
        assert not await gets_a_socket(server, LISTED)


@pytest.mark.parametrize("origin", [LISTED, "null", "https://stranger.example"])
async def test_a_star_lets_every_page_do_both_but_never_with_cookies(tmp_path: Path, origin: str) -> None:
    async with for_origins(tmp_path, "*") as server:
        assert await readable_by_http(server, origin)
        assert await gets_a_socket(server, origin)
        headers = {"origin": origin}
        async with server.http.post(f"{server.url}/graphql", json={"query": COUNT}, headers=headers) as response:
            assert "access-control-allow-credentials" not in response.headers


def test_an_origin_in_the_setting_is_brought_into_the_form_that_browsers_send() -> None:
    settings = load_settings(allowed_origins="HTTPS://Chat.Example.com:443, http://localhost:5173, *")
    assert settings.allowed_origins == (LISTED, OTHER, "*")


# ── what caches may do ──


@pytest.mark.parametrize("origin", [None, LISTED, OTHER, "https://stranger.example"])
async def test_every_answer_says_that_it_depends_on_the_origin(server: Serving, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    for accept in ({}, SSE, MULTIPART):
        body = {"query": WATCH if accept else COUNT}
        async with server.http.post(f"{server.url}/graphql", json=body, headers=headers | accept) as response:
            assert "Origin" in response.headers["vary"]


async def test_a_web_client_can_read_that_its_body_was_too_large(server: Serving) -> None:
    headers = {"origin": LISTED, "content-type": "application/json"}
    async with server.http.post(f"{server.url}/graphql", data=b" " * 5_000_000, headers=headers) as response:
        assert (response.status, response.headers["access-control-allow-origin"]) == (413, LISTED)


# ── requests that browsers send without asking first ──


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("accept", [{}, SSE, MULTIPART], ids=["json", "sse", "multipart"])
async def test_a_simple_post_does_nothing(server: Serving, media_type: str, accept: dict[str, str]) -> None:
    headers = {"origin": "https://stranger.example", "content-type": media_type} | accept
    body = f'{{"query": "{SEND.replace(chr(34), chr(92) + chr(34))}"}}'
    async with server.http.post(f"{server.url}/graphql", data=body.encode(), headers=headers) as response:
        assert response.status == 415
    assert (await server.ask(COUNT))["conversations"]["nodes"] == []


@pytest.mark.parametrize("accept", [{}, SSE, MULTIPART], ids=["json", "sse", "multipart"])
async def test_a_link_or_an_image_does_nothing(server: Serving, accept: dict[str, str]) -> None:
    headers = {"origin": "https://stranger.example"} | accept
    async with server.http.get(f"{server.url}/graphql", params={"query": SEND}, headers=headers) as response:
        assert "access-control-allow-origin" not in response.headers
        await response.read()
    assert (await server.ask(COUNT))["conversations"]["nodes"] == []


async def test_an_event_source_of_a_foreign_page_cannot_read_a_stream(server: Serving) -> None:
    headers = SSE | {"origin": "https://stranger.example"}
    async with server.http.get(f"{server.url}/graphql", params={"query": WATCH}, headers=headers) as response:
        assert "access-control-allow-origin" not in response.headers
