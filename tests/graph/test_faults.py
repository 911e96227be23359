"""What can go wrong upstream, seen from a client: a FAILED reply with a code, the text so far, and another try."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS
from tests.providers.endpoint import (
    DONE,
    Cut,
    Reply,
    ScriptedEndpoint,
    Stall,
    delta,
    finish,
    scripted_endpoint,
    silence,
    status,
    stream,
)
from tests.serving import Serving, serving, settings_for

SEND = """mutation { sendMessage(input: {text: "Hi", waitMs: 20000}) { reply {
  id status text generation { finishReason requests error { code message retryable retryAfterMs } } } } }"""
AGAIN = """mutation ($id: ID!) { regenerateReply(input: {replyId: $id}) { reply { id } errors { message } } }"""

GOOD = stream(delta(content="Better"), finish(), DONE)
FAULTS: dict[str, tuple[Reply, str, bool, int | None, str]] = {
    "401": (status(401, {"error": {"message": "sk-secret"}}), "PROVIDER_REJECTED", False, None, ""),
    "429 with Retry-After": (status(429, headers={"retry-after": "7"}), "PROVIDER_RATE_LIMITED", True, 7_000, ""),
    "500": (status(500), "PROVIDER_UNAVAILABLE", True, None, ""),
    "silence": (silence, "PROVIDER_TIMEOUT", True, None, ""),
    "a stall after some text": (stream(delta(content="Half"), Stall()), "PROVIDER_TIMEOUT", True, None, "Half"),
    "a cut after some text": (stream(delta(content="Half"), Cut()), "PROVIDER_UNAVAILABLE", True, None, "Half"),
    "an end without a reason": (stream(delta(content="Half"), DONE), "PROVIDER_UNAVAILABLE", True, None, "Half"),
    "nonsense": (stream(b"data: {nonsense\n\n"), "PROVIDER_UNAVAILABLE", True, None, ""),
}


@pytest.fixture
async def endpoint() -> AsyncIterator[ScriptedEndpoint]:
    async with scripted_endpoint() as made:
        yield made


@pytest.fixture
async def server(tmp_path: Path, endpoint: ScriptedEndpoint) -> AsyncIterator[Serving]:
    settings = settings_for(
        tmp_path,
        openai_base_url=endpoint.base_url,
        openai_api_key="sk-secret",
        max_retries=0,
        read_timeout=2,
        recovery="keep",
    )
    async with serving(settings) as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_upstream_is_a_failed_reply_that_can_be_made_again(
    server: Serving, endpoint: ScriptedEndpoint, fault: str
) -> None:
    reply_to, code, retryable, wait, text = FAULTS[fault]
    endpoint.replies(reply_to, GOOD)
    reply = (await server.ask(SEND))["sendMessage"]["reply"]
    error = reply["generation"]["error"]
    assert (reply["status"], reply["text"], reply["generation"]["requests"]) == ("FAILED", text, 1)
    assert (error["code"], error["retryable"], error["retryAfterMs"]) == (code, retryable, wait)
    assert "secret" not in error["message"]
    again = (await server.ask(AGAIN, id=reply["id"]))["regenerateReply"]
    assert again["errors"] == []
    assert await settled_text(server, again["reply"]["id"]) == "Better"


async def test_an_answer_that_was_cut_is_gone_on_with(tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(delta(content="Half "), Cut()), GOOD)
    settings = settings_for(tmp_path, openai_base_url=endpoint.base_url, openai_api_key="k", max_retries=0)
    async with serving(settings) as server:
        reply = (await server.ask(SEND))["sendMessage"]["reply"]
    assert (reply["status"], reply["text"], reply["generation"]["requests"]) == ("COMPLETE", "Half Better", 2)


async def test_a_request_that_fails_before_any_text_is_repeated(tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(status(503), GOOD)
    settings = settings_for(tmp_path, openai_base_url=endpoint.base_url, openai_api_key="k", max_retries=1)
    async with serving(settings) as server:
        reply = (await server.ask(SEND))["sendMessage"]["reply"]
    assert (reply["status"], reply["text"], reply["generation"]["requests"]) == ("COMPLETE", "Better", 2)


async def test_a_dead_upstream_is_said_to_be_unavailable(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, openai_base_url="http://127.0.0.1:9/v1", openai_api_key="k", max_retries=0)
    async with serving(settings) as server:
        reply = (await server.ask(SEND))["sendMessage"]["reply"]
    assert reply["generation"]["error"]["code"] == "PROVIDER_UNAVAILABLE"


async def test_stopping_closes_the_request_upstream(tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(delta(content="Half"), Stall()))
    settings = settings_for(tmp_path, openai_base_url=endpoint.base_url, openai_api_key="k")
    async with serving(settings) as server:
        sent = await server.ask('mutation { sendMessage(input: {text: "Hi"}) { reply { id } } }')
        await endpoint.asked.wait()
        stop = "mutation ($id: ID!) { stopReply(input: {replyId: $id}) { reply { status } } }"
        stopped = await server.ask(stop, id=sent["sendMessage"]["reply"]["id"])
        assert stopped["stopReply"]["reply"]["status"] == "STOPPED"
        async with asyncio.timeout(PATIENCE_SECONDS):
            await endpoint.client_left.wait()


async def settled_text(server: Serving, reply_id: str) -> str:
    await server.running.services.stream.settled(reply_id, PATIENCE_SECONDS)
    message = await server.ask("query ($id: ID!) { message(id: $id) { text } }", id=reply_id)
    return str(message["message"]["text"])
