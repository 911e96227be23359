"""Schemathesis against real server processes, without accounts and signed in: whatever the schema allows is answered.

It makes documents of every query and mutation, with arguments at the edges of their types, mostly nonsense. An answer
may refuse; it may not be a 5xx, a masked error of ours or a broken connection. TERTULIA_TEST_EXAMPLES asks for more
than a few documents of each field, and for other ones each time.
"""

import asyncio
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.graphql import nodes

from graph.schema import sdl
from tests.system.processes import ServerProcess, environment_for, graphql

EXAMPLES = os.environ.get("TERTULIA_TEST_EXAMPLES")
CHOSEN = settings(
    max_examples=int(EXAMPLES or 5),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NOBODY_ANSWERS = "http://127.0.0.1:1/v1"
WITH_ACCOUNTS = {
    "TERTULIA_AUTH": "password",
    "TERTULIA_REGISTRATION": "open",
    "TERTULIA_SECRET_KEY": secrets.token_hex(32),
    "TERTULIA_REGISTRATIONS_PER_ADDRESS": "0",
    "TERTULIA_LOGINS_PER_ADDRESS": "0",
    "TERTULIA_ANONYMOUS_OPERATIONS_PER_ADDRESS": "0",
}
REGISTER = """mutation ($email: String!) {
  register(input: {email: $email, password: "a long enough password"}) { accessToken } }"""
ENDS_THE_SESSION = "Mutation.logout"

schemathesis.graphql.scalar("DateTime", st.datetimes().map(lambda at: nodes.String(f"{at.isoformat()}Z")))
schemathesis.graphql.scalar("JSON", st.text().map(nodes.String) | st.integers().map(nodes.Int))
api = schemathesis.graphql.from_file(sdl())

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 120)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Schemathesis blocks; the servers' output is read beside it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def server_with(loop: asyncio.AbstractEventLoop, folder: Path, **environment: str) -> Iterator[ServerProcess]:
    made = ServerProcess(environment_for(NOBODY_ANSWERS, TERTULIA_MAX_RETRIES="0", **environment), folder)
    run(loop, made.start())
    yield made
    run(loop, made.kill())
    assert not made.crashes, made.crashes


@pytest.fixture(scope="module")
def anybodys(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    yield from server_with(loop, tmp_path_factory.mktemp("anybodys"))


@pytest.fixture(scope="module")
def guarded(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    yield from server_with(loop, tmp_path_factory.mktemp("guarded"), **WITH_ACCOUNTS)


@pytest.fixture(scope="module")
def tokens(loop: asyncio.AbstractEventLoop, guarded: ServerProcess) -> dict[str, str]:
    """Of a user, and of another who is signed out now and then."""
    return {name: run(loop, token_of(guarded, name)) for name in ("user", "leaver")}


async def token_of(server: ServerProcess, name: str) -> str:
    made: Any = await graphql(server.url, REGISTER, email=f"{name}@example.com")
    return str(made["register"]["accessToken"])


def check(case: Any, url: str, token: str | None = None) -> None:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    response = case.call(base_url=f"{url}/graphql", headers=headers)
    assert response.status_code < 500, f"{response.status_code} {response.text} to {case.body}"
    codes = [error.get("extensions", {}).get("code") for error in response.json().get("errors", ())]
    assert "INTERNAL" not in codes, f"{response.text} to {case.body}"


@api.parametrize()
@CHOSEN
def test_without_accounts_no_document_is_answered_by_a_server_error(case: Any, anybodys: ServerProcess) -> None:
    check(case, anybodys.url)


@api.parametrize()
@CHOSEN
def test_signed_in_no_document_is_answered_by_a_server_error(
    case: Any, guarded: ServerProcess, tokens: dict[str, str]
) -> None:
    leaves = case.operation.label == ENDS_THE_SESSION
    check(case, guarded.url, tokens["leaver" if leaves else "user"])
