"""Tool calls over the API: how one grows in a stream, and decisions from another connection or at another server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from domain.models import ArgumentsChunk
from persistence import schema
from persistence.database import Database
from tests.doubles import ScriptedModel, answer, calling
from tests.graph.tool_pages import (
    FOLLOW,
    REPLY,
    RESOLVE,
    STREAM,
    Event,
    Page,
    ended,
    resolved,
    sent,
    subscribed,
    to_the_end,
    waiting,
)
from tests.letters import LETTER, PostOffice
from tests.patience import PATIENCE_SECONDS
from tests.postgres import drop_database, new_database
from tests.serving import Serving, serving, settings_for


@pytest.fixture
def office() -> PostOffice:
    return PostOffice()


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(calling(("send_letter", LETTER), text="I write."), answer("Done."))


@pytest.fixture
async def server(tmp_path: Path, model: ScriptedModel, office: PostOffice) -> AsyncIterator[Serving]:
    async with serving(settings_for(tmp_path), model, toolbox=office.toolbox()) as running:
        yield running


# ── streams ──


async def test_a_call_is_seen_from_its_first_argument_to_its_result(server: Serving) -> None:
    reply_id = await sent(server)
    page = await waiting(server, reply_id)
    assert page.call["argumentsText"] == LETTER
    assert page.call["arguments"] == {"to": "Ada", "text": "Come at five."}
    assert page.call["title"] == "Send a letter"
    before = page.cursor
    assert (await resolved(server, page.call, "APPROVE"))["errors"] == []
    seen = await to_the_end(server, reply_id, before)
    changes = [event["toolCall"]["status"] for event in seen if event["__typename"] == "ToolCallChanged"]
    assert changes == ["QUEUED", "RUNNING", "SUCCEEDED"]
    for event in seen[:-1]:
        page.apply(event)
    stored = (await server.ask(REPLY, id=reply_id))["message"]
    assert page.parts == stored["parts"]
    assert page.call["result"] == {"number": 1}
    assert stored["generation"] == {"steps": 2, "requests": 2, "finishReason": "STOP"}


async def test_a_reader_that_was_cut_off_amid_the_arguments_gets_the_rest(
    server: Serving, model: ScriptedModel
) -> None:
    gate, script = asyncio.Event(), calling(("postage", '{"grams": 20}'))
    amid = next(place for place, step in enumerate(script) if isinstance(step, ArgumentsChunk)) + 1
    model.play([*script[:amid], gate, *script[amid:]], answer("85 cents."))
    reply_id, page = await sent(server), Page()
    async with aclosing(subscribed(server, STREAM, id=reply_id)) as events:
        async for event in events:
            page.apply(event)
            if page.parts and page.call["argumentsText"]:
                break
    assert page.call["status"] == "WRITING"
    assert page.call["arguments"] is None
    gate.set()
    seen = await to_the_end(server, reply_id, page.cursor)
    assert "ReplySnapshot" not in [event["__typename"] for event in seen]
    for event in seen[:-1]:
        page.apply(event)
    assert page.parts == seen[-1]["reply"]["parts"]
    assert page.call["result"] == 85


async def test_every_cursor_of_a_reply_with_calls_can_be_gone_on_from(server: Serving, model: ScriptedModel) -> None:
    model.play(calling(("postage", '{"grams": 20}'), ("postage", "{"), text="Let me see."), answer("85 cents."))
    reply_id = await sent(server)
    seen = await to_the_end(server, reply_id)
    whole = Page(seen).parts
    for place, event in enumerate(seen):
        rest = await to_the_end(server, reply_id, event["cursor"])
        assert [each["__typename"] for each in rest].count("ReplySnapshot") == 0
        assert Page([*seen[: place + 1], *rest[:-1]]).parts == whole
    assert [part["toolCall"]["errorCode"] for part in whole if "toolCall" in part] == [None, "INVALID_ARGUMENTS"]


# ── decisions ──


async def test_who_follows_conversations_is_asked_and_answers_from_there(server: Serving, office: PostOffice) -> None:
    async with aclosing(subscribed(server, FOLLOW)) as events:
        await anext(events)
        reply_id = await sent(server)
        request = await anext(event async for event in events if event["__typename"] == "ToolApprovalRequested")
    assert request["reply"]["id"] == reply_id
    assert request["toolCall"]["status"] == "AWAITING_APPROVAL"
    assert request["toolCall"]["arguments"] == {"to": "Ada", "text": "Come at five."}
    assert request["toolCall"]["approval"]["expiresAt"] > "2026"
    payload = await resolved(server, request["toolCall"], "APPROVE", arguments={"to": "Grace", "text": "Come."})
    assert payload["toolCall"]["status"] == "QUEUED"
    page = await ended(server, reply_id)
    assert (page.status, office.letters) == ("COMPLETE", [("Grace", "Come.")])


async def test_a_denial_is_kept_with_its_comment(server: Serving, office: PostOffice) -> None:
    reply_id = await sent(server)
    page = await waiting(server, reply_id)
    await resolved(server, page.call, "DENY", comment="Not to her.")
    page = await ended(server, reply_id)
    assert page.call["status"] == "DENIED"
    assert page.call["approval"]["decision"] == "DENY"
    assert page.call["approval"]["comment"] == "Not to her."
    assert office.letters == []


REFUSALS: dict[str, tuple[Event, str, str, list[str]]] = {
    "arguments that do not fit": (
        {"decision": "APPROVE", "arguments": {"to": 1}},
        "InvalidInputError",
        "INVALID_INPUT",
        ["input", "arguments"],
    ),
    "arguments that are no object": (
        {"decision": "APPROVE", "arguments": [1]},
        "InvalidInputError",
        "INVALID_INPUT",
        ["input", "arguments"],
    ),
    "a denial with arguments": (
        {"decision": "DENY", "arguments": {"to": "Ada", "text": "x"}},
        "InvalidInputError",
        "INVALID_INPUT",
        ["input", "arguments"],
    ),
    "another decision": ({"decision": "DENY"}, "ConflictError", "CONFLICT", ["input", "toolCallId"]),
    "no call": (
        {"decision": "APPROVE", "toolCallId": "call_none"},
        "NotFoundError",
        "NOT_FOUND",
        ["input", "toolCallId"],
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_a_decision_that_cannot_be_taken_is_refused_with_its_reason(server: Serving, what: str) -> None:
    given, type_, code, path = REFUSALS[what]
    page = await waiting(server, await sent(server))
    if what == "another decision":
        await resolved(server, page.call, "APPROVE")
    payload = (await server.ask(RESOLVE, input={"toolCallId": page.call["id"]} | given))["resolveToolCall"]
    (error,) = payload["errors"]
    assert error.pop("message").endswith(".")
    assert error == {"__typename": type_, "code": code, "path": path}
    assert payload["toolCall"] is payload["reply"] is None


@pytest.fixture
async def two_servers(
    postgres: str, tmp_path: Path, model: ScriptedModel, office: PostOffice
) -> AsyncIterator[tuple[Serving, Serving]]:
    """On one PostgreSQL; the second makes no replies."""
    url = await new_database(postgres)
    database = Database(url)
    await schema.upgrade(database)
    await database.close()
    settings, idle = settings_for(tmp_path, database_url=url), settings_for(tmp_path, database_url=url, worker=False)
    async with (
        serving(settings, model, toolbox=office.toolbox()) as one,
        serving(idle, model, toolbox=office.toolbox()) as other,
    ):
        yield one, other
    await drop_database(postgres, url)


async def test_a_call_is_decided_on_at_another_server(two_servers: tuple[Serving, Serving], office: PostOffice) -> None:
    one, other = two_servers
    reply_id = await sent(one)
    page = await waiting(other, reply_id)
    first, again = await asyncio.gather(*(resolved(server, page.call, "APPROVE") for server in (one, other)))
    assert first["errors"] == again["errors"] == []
    page = await ended(other, reply_id)
    assert (page.status, page.call["status"]) == ("COMPLETE", "SUCCEEDED")
    assert len(office.letters) == 1


WAIT = """mutation { sendMessage(input: {text: "Write to Ada.", settings: {tools: ["send_letter"]}, waitMs: 60000}) {
  reply { status } } }"""


async def test_who_waits_for_a_reply_waits_no_longer_when_it_waits_for_them(
    two_servers: tuple[Serving, Serving], model: ScriptedModel
) -> None:
    for server in two_servers:
        model.play(calling(("send_letter", LETTER)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await server.ask(WAIT))["sendMessage"]["reply"]["status"] == "AWAITING_APPROVAL"
