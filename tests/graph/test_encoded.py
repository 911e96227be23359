"""Results that are JSON already: every transport sends them as they are, between results that are not."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from strawberry.types import ExecutionResult

from graph.encoded import EncodedResult
from graph.execution import MaskingSchema
from tests.graph.protocol import MULTIPART, SSE, WATCH, Api, api

pytestmark = pytest.mark.asyncio
PAYLOAD = '{"data": {"spaced": "é"}}'


@pytest_asyncio.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    async def results() -> AsyncGenerator[Any, None]:
        yield ExecutionResult({"plain": 1}, None)
        yield EncodedResult(PAYLOAD.encode())

    async def stream(*_: object, **__: object) -> AsyncGenerator[Any, None]:
        return results()

    monkeypatch.setattr(MaskingSchema, "stream", stream)
    async with api() as made:
        yield made


async def test_a_socket_sends_it_as_it_is(server: Api) -> None:
    async with server.ready_socket() as socket:
        await socket.subscribe(WATCH, 'a "1"')
        frames = [await socket.connection.recv() for _ in range(3)]
    assert frames == [
        r'{"id":"a \"1\"","type":"next","payload":{"data":{"plain":1}}}',
        r'{"id":"a \"1\"","type":"next","payload":' + PAYLOAD + "}",
        r'{"id":"a \"1\"","type":"complete"}',
    ]


@pytest.mark.parametrize("accept", [SSE, MULTIPART])
async def test_a_stream_over_http_sends_it_as_it_is(server: Api, accept: dict[str, str]) -> None:
    async with server.post(WATCH, accept) as response:
        assert PAYLOAD in await response.text()
