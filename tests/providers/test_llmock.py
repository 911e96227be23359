"""Against an endpoint that others wrote to break clients and to judge them: it finds nothing to object to."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from domain.errors import ReplyErrorCode
from domain.models import FinishChunk, OfferedTool
from providers.chat import ChatOptions
from tests.providers.asking import Asking, asking, calls_in, request

SERVER = """
import sys
from llmock.testing import LLMockServer
with LLMockServer() as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""

OPTIONS = ChatOptions(read_timeout=3, max_retries=2, retry_base=0.2, retry_cap=0.5)
STALL = {"stall": {"stall_seconds": 20}}


class Mock:
    """The admin side of the mock."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def will(self, **behaviour: object) -> None:
        body = {"behaviors": [behaviour]}
        async with self._session.post(f"{self._url}/_llmock/scenario", json=body) as response:
            response.raise_for_status()

    async def verdict(self) -> dict[str, Any]:
        async with self._session.get(f"{self._url}/_llmock/verdict") as response:
            verdict: dict[str, Any] = await response.json()
        return verdict

    async def reset(self) -> None:
        async with self._session.post(f"{self._url}/_llmock/reset") as response:
            response.raise_for_status()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture
async def mock(url: str) -> AsyncIterator[Mock]:
    async with aiohttp.ClientSession() as session:
        mock = Mock(url, session)
        await mock.reset()
        yield mock


@pytest.fixture
async def client(url: str) -> AsyncIterator[Asking]:
    async with asking(f"{url}/v1", options=OPTIONS, waits=True) as client:
        yield client


async def test_a_plain_answer_arrives_whole(mock: Mock, client: Asking) -> None:
    await mock.will(type="reply", text="The answer is forty-two.")
    assert await client.text() == "The answer is forty-two."


async def test_usage_is_told(mock: Mock, client: Asking) -> None:
    usage = (await client.finish()).usage
    assert usage is not None
    assert usage.output_tokens > 0


@pytest.mark.parametrize(
    "behaviour",
    [
        {"type": "fail", "status": 429, "retry_after": 0.3, "times": 2},
        {"type": "fail", "status": 503, "times": 2},
        {"type": "slow_first_token", "seconds": 0.2},
        {"type": "delay", "seconds": 0.2},
    ],
    ids=["rate limit", "outage", "slow first token", "delay"],
)
async def test_a_passing_fault_is_overcome(mock: Mock, client: Asking, behaviour: dict[str, object]) -> None:
    await mock.will(**behaviour)
    assert isinstance((await client.chunks())[-1], FinishChunk)
    assert (await mock.verdict())["findings"] == []


@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed", "stall"])
async def test_a_stream_that_breaks_before_any_text_is_overcome(mock: Mock, client: Asking, kind: str) -> None:
    await mock.will(type="stream_fault", kind=kind, after_chunks=1, **STALL.get(kind, {}))
    assert isinstance((await client.chunks())[-1], FinishChunk)
    verdict = await mock.verdict()
    assert (verdict["passed"], verdict["attempts"]) == (True, 2)


@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed", "stall"])
async def test_a_stream_that_breaks_after_some_text_is_a_failure(mock: Mock, client: Asking, kind: str) -> None:
    await mock.will(type="reply", text="one two three four five six seven eight nine ten")
    await mock.will(type="stream_fault", kind=kind, after_chunks=4, **STALL.get(kind, {}))
    assert (await client.failure()).retryable
    assert (await mock.verdict())["attempts"] == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_no_retry_can_mend_is_asked_once(mock: Mock, client: Asking, status: int) -> None:
    await mock.will(type="fail", status=status)
    assert (await client.failure()).code is ReplyErrorCode.PROVIDER_REJECTED
    verdict = await mock.verdict()
    assert (verdict["attempts"], verdict["findings"]) == (1, [])


async def test_calls_of_tools_arrive_whole(mock: Mock, client: Asking) -> None:
    wanted = [("weather", '{"city": "Paris"}'), ("now", "{}")]
    await mock.will(
        type="reply",
        text="One moment.",
        tool_calls=[{"name": name, "arguments": json.loads(arguments)} for name, arguments in wanted],
    )
    tools = tuple(OfferedTool(name, "", {"type": "object"}) for name, _ in wanted)
    calls = calls_in(await client.chunks(replace(request(), tools=tools)))
    assert [(name, arguments) for _, name, arguments in calls] == wanted
    assert len({id for id, _, _ in calls}) == 2
    assert (await mock.verdict())["findings"] == []


async def test_a_call_that_breaks_off_is_a_failure_and_not_made_again(mock: Mock, client: Asking) -> None:
    await mock.will(type="reply", tool_calls=[{"name": "weather", "arguments": {"city": "Paris" * 20}}])
    await mock.will(type="stream_fault", kind="disconnect", after_chunks=4)
    assert (await client.failure(replace(request(), tools=(OfferedTool("weather", "", {}),)))).retryable
    assert (await mock.verdict())["attempts"] == 1
