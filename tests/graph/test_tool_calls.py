"""Tools over the API: what is offered, how a call grows in a stream, and decisions from another connection."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from domain.models import ArgumentsChunk
from persistence import schema
from persistence.database import Database
from tests.doubles import ScriptedModel, answer, calling
from tests.graph.protocol import Socket, raw_socket
from tests.letters import LETTER, PostOffice
from tests.postgres import drop_database, new_database
from tests.serving import Serving, serving, settings_for

CALL = """id name title status arguments argumentsText result error errorCode startedAt finishedAt
  approval { requestedAt expiresAt decidedAt decision comment }"""
PARTS = f"parts {{ __typename id index ... on TextPart {{ text }} ... on ToolCallPart {{ toolCall {{ {CALL} }} }} }}"
SEND = """mutation ($tools: [String!], $text: String = "Write to Ada.") {
  sendMessage(input: {text: $text, settings: {tools: $tools}}) {
    conversation { id settings { toolChoice tools { name } } } reply { id } errors { __typename code path } } }"""
REPLY = (
    f"query ($id: ID!) {{ message(id: $id) {{ status text {PARTS} generation {{ steps requests finishReason }} }} }}"
)
STREAM = f"""subscription ($id: ID!, $after: String) {{ replyStream(replyId: $id, after: $after) {{ cursor __typename
  ... on ReplySnapshot {{ reply {{ status {PARTS} }} }}
  ... on ReplyStatusChanged {{ status }}
  ... on PartAdded {{ part {{ __typename id index ... on TextPart {{ text }}
    ... on ToolCallPart {{ toolCall {{ {CALL} }} }} }} }}
  ... on TextDelta {{ partId text }}
  ... on ToolCallArgumentsDelta {{ partId toolCallId argumentsText }}
  ... on ToolCallChanged {{ partId toolCall {{ {CALL} }} }}
  ... on ReplyFinished {{ reply {{ status {PARTS} }} }} }} }}"""
FOLLOW = """subscription { conversationEvents { __typename ... on ToolApprovalRequested {
  toolCall { id status arguments approval { expiresAt } } reply { id } } } }"""
RESOLVE = f"""mutation ($input: ResolveToolCallInput!) {{ resolveToolCall(input: $input) {{
  toolCall {{ {CALL} }} reply {{ id }} errors {{ __typename code message path }} }} }}"""
TOOLS = ["send_letter", "postage"]

Event = dict[str, Any]


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


async def subscribed(server: Serving, query: str, **variables: Any) -> AsyncGenerator[Event, None]:
    """The events of a subscription over a socket of its own."""
    async with raw_socket(server.url) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init")
        await socket.receive()
        await socket.send(type="subscribe", id="1", payload={"query": query, "variables": variables})
        while (message := await socket.receive())["type"] == "next":
            (event,) = message["payload"]["data"].values()
            yield event


class Page:
    """What a client shows of a reply: it applies events as the documentation says, and knows nothing else."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.cursor: str | None = None
        self.status = ""
        self.parts: list[Event] = []
        for event in events:
            self.apply(event)

    def apply(self, told: Event) -> None:
        event = deepcopy(told)
        self.cursor = event["cursor"]
        match event["__typename"]:
            case "ReplySnapshot" | "ReplyFinished":
                self.status, self.parts = event["reply"]["status"], event["reply"]["parts"]
            case "ReplyStatusChanged":
                self.status = event["status"]
            case "PartAdded":
                self.parts.append(event["part"])
            case "TextDelta":
                self._part(event)["text"] += event["text"]
            case "ToolCallArgumentsDelta":
                call = self._part(event)["toolCall"]
                assert call["id"] == event["toolCallId"]
                call["argumentsText"] += event["argumentsText"]
            case "ToolCallChanged":
                self._part(event)["toolCall"] = event["toolCall"]

    def _part(self, event: Event) -> Event:
        return next(part for part in self.parts if part["id"] == event["partId"])

    @property
    def call(self) -> Event:
        calls: list[Event] = [part["toolCall"] for part in self.parts if part["__typename"] == "ToolCallPart"]
        return calls[-1]


async def sent(server: Serving) -> str:
    payload = (await server.ask(SEND, tools=TOOLS))["sendMessage"]
    assert payload["errors"] == []
    return str(payload["reply"]["id"])


async def waiting(server: Serving, reply_id: str) -> Page:
    """The reply when it waits for its user."""
    page = Page()
    async with aclosing(subscribed(server, STREAM, id=reply_id)) as events:
        async for event in events:
            page.apply(event)
            if page.status == "AWAITING_APPROVAL":
                return page
    raise AssertionError("the reply ended")


async def resolved(server: Serving, call: Event, decision: str, **more: Any) -> Event:
    payload: Event = (await server.ask(RESOLVE, input={"toolCallId": call["id"], "decision": decision} | more))[
        "resolveToolCall"
    ]
    return payload


async def to_the_end(server: Serving, reply_id: str, after: str | None = None) -> list[Event]:
    """What is read from the cursor on."""
    return [event async for event in subscribed(server, STREAM, id=reply_id, after=after)]


async def ended(server: Serving, reply_id: str) -> Page:
    return Page(await to_the_end(server, reply_id))


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
    async with serving(settings, model, toolbox=office.toolbox()) as one, serving(idle, model) as other:
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


# ── tools, settings and tasks ──


async def test_tools_are_listed_with_what_a_model_is_told(server: Serving) -> None:
    data = await server.ask("{ tools { name title description parameters needsApproval source } }")
    postage, letter = data["tools"]
    assert (postage["name"], postage["needsApproval"]) == ("postage", False)
    assert (letter["name"], letter["title"], letter["needsApproval"]) == ("send_letter", "Send a letter", True)
    assert letter["description"] == "Send a letter."
    assert letter["parameters"]["required"] == ["to", "text"]
    assert letter["source"] == "PLUGIN"


async def test_a_tool_that_is_not_there_is_refused(server: Serving) -> None:
    payload = (await server.ask(SEND, tools=["postage", "absent"]))["sendMessage"]
    expected = {"__typename": "UnavailableError", "code": "TOOL_UNAVAILABLE", "path": ["input", "settings", "tools"]}
    assert payload["errors"] == [expected]


CREATE = """mutation ($settings: GenerationSettingsInput) { createConversation(input: {settings: $settings}) {
  conversation { id settings { toolChoice tools { name } } } errors { code path } } }"""


async def test_a_conversation_tells_which_tools_it_offers(server: Serving) -> None:
    offered = {"tools": ["postage"], "toolChoice": "REQUIRED"}
    one = (await server.ask(CREATE, settings=offered))["createConversation"]["conversation"]
    assert one["settings"] == {"toolChoice": "REQUIRED", "tools": [{"name": "postage"}]}
    other = (await server.ask(CREATE, settings={}))["createConversation"]["conversation"]
    assert other["settings"] == {"toolChoice": "AUTO", "tools": []}


WRONG_TOOLS = {"twice": ["postage", "postage"], "no name": ["no name"], "too many": [f"tool_{n}" for n in range(129)]}


@pytest.mark.parametrize("what", WRONG_TOOLS)
async def test_names_of_tools_must_keep_the_rules(server: Serving, what: str) -> None:
    payload = (await server.ask(CREATE, settings={"tools": WRONG_TOOLS[what]}))["createConversation"]
    assert payload["errors"] == [{"code": "INVALID_INPUT", "path": ["input", "settings", "tools"]}]


async def test_the_texts_of_calls_count_towards_the_length_of_an_answer(
    server: Serving, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graph.context.MAX_CHARACTERS", 200)
    model.play(calling(("postage", f'{{"grams": 20{" " * 150}}}')), answer("85 cents."))
    reply_id = await sent(server)
    await server.running.services.stream.settled(reply_id, 10)
    query = "query ($id: ID!) { message(id: $id) { parts { ... on ToolCallPart { toolCall { argumentsText } } } } }"
    await server.ask(query, id=reply_id)
    twice = query.replace("argumentsText", "argumentsText again: argumentsText")
    body = await server.post({"query": twice, "variables": {"id": reply_id}})
    assert body["errors"][0]["extensions"]["code"] == "QUERY_TOO_COMPLEX"
