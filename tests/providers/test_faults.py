"""Everything an endpoint can do wrong, and the typed failure that each becomes. Retries are in test_retries.py."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from domain.errors import ReplyErrorCode
from domain.models import TextChunk
from providers import errors, sse
from providers.chat import ChatOptions
from tests.patience import PATIENCE_SECONDS
from tests.providers.asking import KEY, Asking, asking, request
from tests.providers.endpoint import (
    DONE,
    Cut,
    ScriptedEndpoint,
    Stall,
    delta,
    event,
    finish,
    said,
    silence,
    status,
    stream,
    used,
)

UNAVAILABLE = ReplyErrorCode.PROVIDER_UNAVAILABLE
REJECTED = ReplyErrorCode.PROVIDER_REJECTED
LIMITED = ReplyErrorCode.PROVIDER_RATE_LIMITED
TIMEOUT = ReplyErrorCode.PROVIDER_TIMEOUT
TOO_LONG = ReplyErrorCode.CONTEXT_TOO_LONG


@pytest.mark.parametrize(
    ("code", "body", "judged"),
    [
        (302, "", (UNAVAILABLE, False)),
        (400, "", (REJECTED, False)),
        (400, {"error": {"code": "context_length_exceeded"}}, (TOO_LONG, False)),
        (400, {"error": {"type": "exceed_context_size_error"}}, (TOO_LONG, False)),
        (401, "", (REJECTED, False)),
        (402, "", (LIMITED, False)),
        (403, "", (REJECTED, False)),
        (404, "", (REJECTED, False)),
        (408, "", (TIMEOUT, True)),
        (422, "", (REJECTED, False)),
        (429, "", (LIMITED, True)),
        (429, {"error": {"code": "insufficient_quota"}}, (LIMITED, False)),
        (500, "", (UNAVAILABLE, True)),
        (503, "<html>busy</html>", (UNAVAILABLE, True)),
    ],
)
async def test_each_status_is_one_kind_of_failure(
    endpoint: ScriptedEndpoint, chat: Asking, code: int, body: object, judged: tuple[ReplyErrorCode, bool]
) -> None:
    endpoint.replies(status(code, body))
    error = await chat.failure()
    assert (error.code, error.retryable) == judged


async def test_of_a_refusal_no_more_is_read_than_anybody_wants_to_know(
    endpoint: ScriptedEndpoint, chat: Asking
) -> None:
    endpoint.replies(status(401, {"error": {"message": "x" * 10_000_000}}))
    assert (await chat.failure()).message == errors.BAD_CREDENTIALS


async def test_refused_credentials_are_the_operators_business(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(401))
    assert (await chat.failure()).message == errors.BAD_CREDENTIALS


async def test_a_redirect_is_not_followed(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(307, headers={"Location": endpoint.base_url + "/chat/completions"}))
    assert (await chat.failure()).message == errors.BAD_ADDRESS
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({}, None),
    ],
)
async def test_the_wait_that_is_asked_for_is_told(
    endpoint: ScriptedEndpoint, chat: Asking, headers: dict[str, str], seconds: float | None
) -> None:
    endpoint.replies(status(429, headers=headers))
    assert (await chat.failure()).retry_after == seconds


async def test_the_wait_may_be_told_as_a_date(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    endpoint.replies(status(503, headers={"Retry-After": format_datetime(in_a_minute, usegmt=True)}))
    assert (await chat.failure()).retry_after == pytest.approx(60, abs=30)


async def test_nobody_at_the_address_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with asking(f"http://127.0.0.1:{unused.getsockname()[1]}/v1") as chat:
            error = await chat.failure()
    assert (error.code, error.message, error.retryable) == (UNAVAILABLE, errors.UNREACHABLE, True)


async def test_an_unknown_host_is_unavailable() -> None:
    async with asking("http://no-such-host.invalid/v1") as chat:
        error = await chat.failure()
    assert (error.code, error.message, error.retryable) == (UNAVAILABLE, errors.UNREACHABLE, True)


@pytest.mark.parametrize("steps", [(Stall(),), (said("Hel"), Stall())], ids=["before text", "after text"])
async def test_a_stall_is_a_timeout(endpoint: ScriptedEndpoint, steps: tuple[Any, ...]) -> None:
    endpoint.replies(stream(*steps))
    async with asking(endpoint, options=ChatOptions(read_timeout=0.05, max_retries=0)) as chat:
        error = await chat.failure()
    assert (error.code, error.retryable) == (TIMEOUT, True)


async def test_an_endpoint_that_only_sends_signs_of_life_runs_into_the_total_limit(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(stream(*[b": ping\n\n"] * 10, Stall()))
    async with asking(endpoint, options=ChatOptions(read_timeout=30, total_timeout=0.1, max_retries=0)) as chat:
        async with asyncio.timeout(PATIENCE_SECONDS):
            error = await chat.failure()
    assert (error.code, error.retryable) == (TIMEOUT, True)


async def test_an_endpoint_that_never_answers_runs_into_the_total_limit(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies(silence)
    async with asking(endpoint, options=ChatOptions(read_timeout=30, total_timeout=0.1)) as chat:
        assert (await chat.failure()).code is TIMEOUT


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (DONE,),
        (said("Hel"),),
        (said("Hel"), DONE),
        (said("Hel"), Cut()),
        (said("Hel"), b'data: {"choices": [{"del', Cut()),
        (said("Hel"), b'data: {"choices": [{"del'),
        (said("Hel"), b"data: {not json}\n\n", finish(), DONE),
        (said("Hel"), b"data: 17\n\n", finish(), DONE),
        (said("Hel"), event({"choices": "none"}), finish(), DONE),
        (said("Hel"), event({"error": {"message": "overloaded"}}), DONE),
        (said("Hel"), event({"error": "overloaded"}), DONE),
        (said("Hel"), finish("error"), DONE),
        (said("Hel"), b"data: " + b"[" * 200_000 + b"\n\n"),
        (b"<html>Welcome</html>",),
    ],
    ids=[
        "nothing",
        "only done",
        "no finish reason",
        "done without finish reason",
        "cut",
        "cut in a frame",
        "ended in a frame",
        "not json",
        "not an object",
        "another shape",
        "error object",
        "error text",
        "error as finish reason",
        "nesting without end",
        "a web page",
    ],
)
async def test_an_answer_that_breaks_off_is_never_a_success(
    endpoint: ScriptedEndpoint, chat: Asking, steps: tuple[Any, ...]
) -> None:
    endpoint.replies(stream(*steps))
    error = await chat.failure()
    assert (error.code, error.message, error.retryable) == (UNAVAILABLE, errors.BROKE_OFF, True)


async def test_an_answer_without_a_body_is_never_a_success(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(200))
    assert (await chat.failure()).message == errors.BROKE_OFF


async def test_what_was_said_before_the_break_has_been_shown(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(said("Hel"), Cut()))
    stream_ = chat.model.stream(request())
    assert [await anext(stream_) for _ in range(2)][1] == TextChunk("Hel")
    await stream_.aclose()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "context_length_exceeded"}, TOO_LONG),
        ({"code": 429}, LIMITED),
        ({"code": 400}, REJECTED),
        ({"code": 502}, UNAVAILABLE),
    ],
)
async def test_an_error_frame_is_judged_by_its_code(
    endpoint: ScriptedEndpoint, chat: Asking, error: dict[str, object], expected: ReplyErrorCode
) -> None:
    endpoint.replies(stream(event({"error": error})))
    assert (await chat.failure()).code is expected


async def test_an_event_without_end_is_not_collected_for_ever(
    endpoint: ScriptedEndpoint, chat: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100_000)
    endpoint.replies(stream(b"data: ", *[b"x" * 30_000] * 5, Stall()))
    assert (await chat.failure()).message == errors.BROKE_OFF


@pytest.mark.parametrize(
    "steps",
    [(Cut(),), (Stall(),), (b"data: {garbled\n\n", DONE), (used(prompt_tokens=3), Cut())],
    ids=["cut", "stall", "garbled", "usage and cut"],
)
async def test_what_fails_after_the_finish_reason_costs_only_the_usage(
    endpoint: ScriptedEndpoint, steps: tuple[Any, ...]
) -> None:
    endpoint.replies(stream(said("Hi"), finish(), *steps))
    async with asking(endpoint, options=ChatOptions(read_timeout=2, max_retries=0)) as chat:
        assert await chat.text() == "Hi"


async def test_the_detail_never_holds_the_key(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(401, f"Incorrect API key provided: {KEY}."))
    assert (await chat.failure()).detail == "HTTP 401: Incorrect API key provided: [key]."


async def test_the_detail_holds_nothing_that_looks_like_a_key(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(401, "Incorrect API key provided: sk-proj-te****89."))
    assert "sk-" not in (await chat.failure()).detail


async def test_the_message_never_quotes_the_endpoint(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(status(400, {"error": {"message": "the body " * 200}}))
    error = await chat.failure()
    assert "the body" not in error.message
    assert "the body" in error.detail
    assert len(error.detail) <= 500


async def test_a_frame_with_another_choice_first_is_not_mistaken(endpoint: ScriptedEndpoint, chat: Asking) -> None:
    endpoint.replies(stream(event({"choices": []}), delta(content="Hi"), finish(), DONE))
    assert await chat.text() == "Hi"
