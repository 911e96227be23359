"""What a stranger may send before anybody reads it: short bodies, and few, also broken ones."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.doubles import ScriptedModel, answer
from tests.security.people import LOGIN, Person, guarded, register
from tests.serving import Serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON = {"content-type": "application/json"}
CREATE = "mutation ($input: CreateConversationInput!) { createConversation(input: $input) { errors { code } } }"
LONG = "x" * 300_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    folder: Path = tmp_path_factory.mktemp("bodies")
    async with guarded(folder, ScriptedModel(answer("Hello"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(server: Serving) -> Person:
    return await register(server)


async def status(server: Serving, data: Any, headers: dict[str, str]) -> int:
    async with server.http.post(f"{server.url}/graphql", data=data, headers=JSON | headers) as response:
        return response.status


def body(query: str, **variables: Any) -> bytes:
    return json.dumps({"query": query, "variables": variables}).encode()


HISTORY = {"history": [{"role": "USER", "text": "word " * 15_000}] * 5}


async def test_a_stranger_sends_no_long_body_whatever_is_in_it(server: Serving) -> None:
    for sent in (
        body(LOGIN, input={"email": "a", "password": LONG}, more={"history": 0}),
        body(CREATE, input=HISTORY),
        body(f"{CREATE} # login", history=[], input={"email": LONG}),
    ):
        assert await status(server, sent, {}) == 413
        assert await status(server, sent, {"authorization": "Bearer wrong"}) == 413


async def test_a_long_body_of_a_stranger_is_not_read_to_its_end(server: Serving) -> None:
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 3_000_000:
            read += 50_000
            yield b" " * 50_000

    with suppress(ConnectionError):
        assert await status(server, pieces(), {}) == 413
    print(f"{read} bytes sent")


async def test_a_user_sends_a_long_body_only_with_history(server: Serving, person: Person) -> None:
    assert await status(server, body(CREATE, input=HISTORY), person.headers) == 200
    login = body(LOGIN, input={"email": "a", "password": LONG}, more={"history": 0})
    assert await status(server, login, person.headers) == 413
    assert await status(server, body(CREATE, input={"title": LONG}), person.headers) == 413


async def test_broken_bodies_of_strangers_are_counted(tmp_path: Path) -> None:
    async with guarded(tmp_path, ScriptedModel(), anonymous_operations_per_address=1) as server:
        broken = [b"{", b"[]", b"", b'{"query": 1}']
        codes = Counter([await status(server, broken[number % 4], {}) for number in range(100)])
        print(codes)
    assert codes.keys() == {400, 429}
    assert codes[429] > 30
