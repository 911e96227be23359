"""How an endpoint is reached and what travels on the way: proxies, passwords in addresses, compressed answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import encode_basic_auth, web

from domain.errors import ReplyErrorCode
from domain.models import TextChunk
from providers import errors
from tests.patience import PATIENCE_SECONDS
from tests.providers.asking import KEY, Asking, asking, request
from tests.providers.endpoint import WHOLE, WINDOW_BITS, ScriptedEndpoint, compressed, finish, said, stream

ELSEWHERE = "models.invalid"


@asynccontextmanager
async def server(answer: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """On this port of loopback each connection is given to `answer` with the head of its first request, and closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(await reader.readuntil(b"\r\n\r\n"), writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the proxies of whoever runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def test_an_endpoint_elsewhere_is_asked_through_the_proxy_of_the_environment(
    endpoint: ScriptedEndpoint, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", endpoint.base_url.removesuffix("/v1").replace("//", "//me:s3%40cret@"))
    endpoint.replies(stream(WHOLE))
    async with asking(f"http://{ELSEWHERE}/v1") as chat:
        assert await chat.text() == "Hello there"
    headers = endpoint.requests[0].headers
    assert headers["Host"] == ELSEWHERE
    assert headers["Proxy-Authorization"] == encode_basic_auth("me", "s3@cret")
    assert headers["Authorization"] == f"Bearer {KEY}"


async def test_the_proxy_of_an_encrypted_endpoint_is_not_told_its_key(environment: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    async def refuse(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    async with server(refuse) as port:
        environment.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{port}")
        async with asking(f"https://{ELSEWHERE}/v1") as chat:
            await chat.failure()
    assert heads[0].startswith(f"CONNECT {ELSEWHERE}:443 ".encode())
    assert encode_basic_auth("me", "s3cret").encode() in heads[0]
    assert KEY.encode() not in heads[0]


async def test_an_endpoint_on_this_machine_is_asked_past_the_proxy(
    endpoint: ScriptedEndpoint, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", f"http://{ELSEWHERE}")
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint) as chat:
        assert await chat.text() == "Hello there"


async def test_an_endpoint_that_the_environment_excepts_is_asked_past_the_proxy(
    endpoint: ScriptedEndpoint, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("providers.client._LOOPBACK", frozenset())
    environment.setenv("http_proxy", f"http://{ELSEWHERE}")
    environment.setenv("no_proxy", "127.0.0.1")
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint) as chat:
        assert await chat.text() == "Hello there"


async def test_a_name_and_password_in_the_address_take_the_place_of_the_key(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(WHOLE))
    async with asking(endpoint.base_url.replace("//", "//me:s3%40cret@")) as chat:
        await chat.chunks()
    assert endpoint.requests[0].headers["Authorization"] == encode_basic_auth("me", "s3@cret")


async def test_a_request_after_closing_opens_no_connection(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    await chat.model.aclose()
    with pytest.raises(RuntimeError):
        await chat.chunks()
    assert endpoint.requests == []


@pytest.mark.parametrize("coding", WINDOW_BITS)
async def test_a_compressed_answer_is_read_as_it_arrives(endpoint: ScriptedEndpoint, chat: Asking, coding: str) -> None:
    go_on, text = asyncio.Event(), ""
    endpoint.replies(compressed(coding, said("Hello"), go_on, said(" there"), finish()))
    async for chunk in chat.model.stream(request()):
        if isinstance(chunk, TextChunk):
            text += chunk.text
            go_on.set()
    assert text == "Hello there"


async def test_leaving_a_compressed_answer_closes_the_request(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(compressed("gzip", said("Hello"), asyncio.Event()))
    chunks = chat.model.stream(request())
    await anext(chunks)
    await chunks.aclose()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await endpoint.client_left.wait()


async def test_a_compressed_refusal_is_judged_by_what_it_says(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    async def refusal(asked: web.Request) -> web.StreamResponse:
        response = web.json_response({"error": {"code": "context_length_exceeded"}}, status=400)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    endpoint.replies(refusal)
    assert (await chat.failure()).code is ReplyErrorCode.CONTEXT_TOO_LONG


@pytest.mark.parametrize(
    "rest",
    [b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"content-encoding: gzip\r\n\r\nnot compressed"],
    ids=["chunks", "compression"],
)
async def test_a_garbled_answer_is_broken_off(rest: bytes) -> None:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + rest)

    async with server(answer) as port, asking(f"http://127.0.0.1:{port}/v1") as chat:
        error = await chat.failure()
    assert (error.message, error.retryable) == (errors.BROKE_OFF, True)


async def test_an_answer_that_is_not_http_is_broken_off() -> None:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Hello!\r\n\r\n")

    async with server(answer) as port, asking(f"http://127.0.0.1:{port}/v1") as chat:
        error = await chat.failure()
    assert (error.message, error.retryable) == (errors.BROKE_OFF, True)
