"""Logs: which ids their lines carry, their form, and that nobody's words are ever in them, nor in the metrics."""

import json
from collections.abc import AsyncIterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog

from domain.errors import ReplyErrorCode
from tertulia.telemetry import OperatorTelemetry, configure_logging
from tests.doubles import ScriptedModel, answer
from tests.providers.endpoint import DONE, ScriptedEndpoint, finish, said, scripted_endpoint, status, stream
from tests.providers.endpoint import used as usage
from tests.serving import Serving, serving, settings_for

SEND = """mutation ($text: String!) {
  sendMessage(input: {text: $text, waitMs: 10000}) { conversation { id } reply { id status } errors { code } }
}"""
CANARY = "canary-71c2"


@pytest.fixture
async def endpoint() -> AsyncIterator[ScriptedEndpoint]:
    async with scripted_endpoint() as endpoint:
        yield endpoint


class Log(StringIO):
    """What is written to standard error."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def about(self, event: str) -> dict[str, Any]:
        """The one line about this event."""
        (line,) = [line for line in self.lines() if line["event"] == event]
        return line


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log, tmp_path: Path, endpoint: ScriptedEndpoint) -> AsyncIterator[Serving]:
    """A server that logs everything it can, with the real client of a scripted endpoint."""
    settings = settings_for(
        tmp_path, openai_base_url=endpoint.base_url, model="gpt-4o", max_retries=1, log_level="debug", log_format="json"
    )
    with redirect_stderr(log):
        async with serving(settings) as server:
            yield server


async def send(server: Serving, text: str = "Hi") -> Any:
    return (await server.ask(SEND, text=text))["sendMessage"]


# ── ids ──


async def test_a_request_and_its_reply_can_be_followed_by_their_ids(
    server: Serving, endpoint: ScriptedEndpoint, log: Log
) -> None:
    endpoint.replies(stream(said("Hello"), finish(), DONE))
    body = {"query": SEND, "variables": {"text": "Hi"}}
    async with server.http.post(f"{server.url}/graphql", json=body) as response:
        sent = (await response.json())["data"]["sendMessage"]
        request_id = response.headers["x-request-id"]
    ids = {"conversation_id": sent["conversation"]["id"], "reply_id": sent["reply"]["id"]}
    assert log.about("reply queued").items() >= (ids | {"request_id": request_id, "replayed": False}).items()
    assert log.about("operation").items() >= {"request_id": request_id, "operation": "sendMessage"}.items()
    assert log.about("provider call").items() >= ids.items()
    assert log.about("reply ended").items() >= (ids | {"status": "COMPLETE", "code": None, "attempt": 1}).items()


async def test_every_request_has_an_id_of_its_own(server: Serving) -> None:
    ids = set()
    for _ in range(3):
        async with server.http.get(f"{server.url}/healthz") as response:
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 3


# ── calls of the provider ──


async def test_a_call_of_the_provider_is_one_line_with_model_tokens_duration_and_outcome(
    server: Serving, endpoint: ScriptedEndpoint, log: Log
) -> None:
    endpoint.replies(stream(said("Hello"), finish("length"), usage(prompt_tokens=11, completion_tokens=7), DONE))
    await send(server)
    call = log.about("provider call")
    assert call.items() >= {"model": "gpt-4o", "outcome": "LENGTH", "input_tokens": 11, "output_tokens": 7}.items()
    assert 0 < call["first_token_seconds"] <= call["seconds"] < 10


async def test_a_repeated_call_is_two_lines_with_a_line_about_the_repetition_between(
    server: Serving, endpoint: ScriptedEndpoint, log: Log
) -> None:
    endpoint.replies(status(503, headers={"retry-after-ms": "1"}, body=CANARY), stream(said("Hello"), finish(), DONE))
    await send(server)
    calls = [line for line in log.lines() if line["event"].startswith("provider call")]
    assert [(line["event"], line.get("outcome") or line.get("code")) for line in calls] == [
        ("provider call", "PROVIDER_UNAVAILABLE"),
        ("provider call repeated", "PROVIDER_UNAVAILABLE"),
        ("provider call", "STOP"),
    ]


# ── form ──


def configure(log: Log, folder: Path, **settings: str) -> None:
    with redirect_stderr(log):
        configure_logging(settings_for(folder, **settings))


def test_json_lines_have_an_event_a_level_and_an_instant(tmp_path: Path, log: Log) -> None:
    configure(log, tmp_path, log_format="json", log_level="info")
    structlog.get_logger("tertulia").info("something", number=1)
    structlog.get_logger("tertulia").debug("too little")
    (line,) = log.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "something", "level": "info", "number": 1}


def test_console_lines_are_for_eyes_and_auto_means_json_where_there_is_no_terminal(tmp_path: Path, log: Log) -> None:
    for log_format in ("console", "auto"):
        configure(log, tmp_path, log_format=log_format, log_level="info")
        structlog.get_logger("tertulia").info("something")
    console, auto = log.getvalue().splitlines()
    assert "something" in console
    assert not console.startswith("{")
    assert auto.startswith("{")


def test_a_traceback_says_where_and_which_types_but_not_what_was_said(tmp_path: Path, log: Log) -> None:
    configure(log, tmp_path, log_format="json")
    try:
        try:
            int(CANARY)
        except ValueError as cause:
            raise ExceptionGroup(CANARY, [KeyError(CANARY)]) from cause
    except ExceptionGroup as error:
        OperatorTelemetry().unexpected("id-1", error)
    (line,) = log.lines()
    assert CANARY not in str(line)
    assert line["correlation_id"] == "id-1"
    types = [text for text in line["exception"].splitlines() if not text.startswith(" ")]
    assert types == ["builtins.ValueError", "builtins.ExceptionGroup", "builtins.KeyError"]
    assert "test_telemetry.py" in line["exception"]


# ── nobody's words ──


async def everything_logged_and_counted(server: Serving, log: Log) -> str:
    async with server.http.get(f"{server.url}/metrics") as response:
        counted = await response.text()
    return log.getvalue() + counted


async def test_what_people_and_models_write_is_in_no_log_line_and_in_no_metric(
    server: Serving, endpoint: ScriptedEndpoint, log: Log
) -> None:
    endpoint.replies(stream(said(f"reply {CANARY}"), finish(), DONE), status(400, f"refused: {CANARY}"))
    assert (await send(server, f"prompt {CANARY}"))["reply"]["status"] == "COMPLETE"
    assert (await send(server, f"prompt {CANARY}"))["reply"]["status"] == "FAILED"
    await server.post({"query": f'{{ conversation(id: "{CANARY}") {{ {CANARY[:6]} }} }}'})
    await server.post({"query": f"query {CANARY[:6]} {{ server {{ version }} }}", "operationName": CANARY})
    everything = await everything_logged_and_counted(server, log)
    assert "reply ended" in everything
    assert CANARY[:6] not in everything


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500])
async def test_an_endpoint_that_quotes_the_prompt_in_a_refusal_gets_it_into_no_log(
    server: Serving, endpoint: ScriptedEndpoint, log: Log, code: int
) -> None:
    endpoint.replies(*[status(code, f"refused: {CANARY}")] * 2)
    assert (await send(server, f"prompt {CANARY}"))["reply"]["status"] == "FAILED"
    assert log.about("provider failed")["detail"] == f"HTTP {code}"
    assert CANARY not in await everything_logged_and_counted(server, log)


async def test_what_goes_over_a_socket_is_in_no_log_line_either(
    server: Serving, endpoint: ScriptedEndpoint, log: Log
) -> None:
    endpoint.replies(stream(said(f"reply {CANARY}"), finish(), DONE))
    subscribe = {"query": SEND, "variables": {"text": f"prompt {CANARY}"}}
    async with server.http.ws_connect(f"{server.url}/graphql?{CANARY}", protocols=["graphql-transport-ws"]) as socket:
        await socket.send_json({"type": "connection_init", "payload": {"token": CANARY}})
        assert (await socket.receive_json())["type"] == "connection_ack"
        await socket.send_json({"type": "subscribe", "id": "1", "payload": subscribe})
        assert (await socket.receive_json())["payload"]["data"]["sendMessage"]["reply"]["status"] == "COMPLETE"
    everything = await everything_logged_and_counted(server, log)
    assert "reply ended" in everything
    assert CANARY not in everything


async def test_an_exception_that_quotes_what_was_written_is_logged_without_the_quotation(
    tmp_path: Path, log: Log
) -> None:
    model = ScriptedModel([*answer(f"reply {CANARY}")[:2], RuntimeError(f"cannot digest {CANARY}")])
    settings = settings_for(tmp_path, log_format="json", log_level="debug")
    asking = SEND.replace("status }", "status generation { error { code message } } }")
    with redirect_stderr(log):
        async with serving(settings, model) as server:
            data = await server.ask(asking, text=f"prompt {CANARY}")
            everything = await everything_logged_and_counted(server, log)
    error = data["sendMessage"]["reply"]["generation"]["error"]
    assert error["code"] == ReplyErrorCode.INTERNAL
    assert CANARY not in error["message"]
    assert "reply crashed" in everything
    assert CANARY not in everything


async def test_a_log_that_cannot_be_written_stops_no_reply(
    server: Serving, endpoint: ScriptedEndpoint, log: Log
) -> None:
    log.close()
    endpoint.replies(stream(said("Hello"), finish(), DONE))
    with redirect_stderr(log):
        assert (await send(server))["reply"]["status"] == "COMPLETE"
