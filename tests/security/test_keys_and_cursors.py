"""What clients are given besides ids, in the hands of somebody else: idempotency keys, cursors, feeds, live streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.doubles import ScriptedModel, answer
from tests.graph.protocol import Socket
from tests.security.people import (
    FEED,
    LOGIN,
    SEND,
    STREAM,
    Person,
    bearing,
    code_of,
    guarded,
    ready_socket,
    register,
    streamed,
)
from tests.security.stage import SECRET, WATCHED, Stage, world_of
from tests.serving import Serving

on_the_stage = pytest.mark.asyncio(loop_scope="module")
CREATE = """mutation ($input: CreateConversationInput!) { createConversation(input: $input) {
  replayed conversation { id title } errors { code } } }"""
SEND_ONCE = """mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
  replayed conversation { id } message { id } reply { id } errors { code } } }"""
PAGE = "query ($after: String) { conversations(after: $after) { edges { cursor node { id } } } }"
MESSAGES = """query ($id: ID!, $after: String) {{
  conversation(id: $id) {{ {}(first: 5, after: $after) {{ nodes {{ id }} }} }} }}"""
EVENTS = """subscription ($id: ID) { conversationEvents(conversationId: $id) { __typename cursor
  ... on MessageAdded { conversation { id } } } }"""
DELETE = """mutation ($input: DeleteConversationInput!) {
  deleteConversation(input: $input) { deletedId errors { code } } }"""
LEAVE = "mutation ($input: DeleteAccountInput!) { deleteAccount(input: $input) { deletedId errors { code } } }"


# ── keys ──


@on_the_stage
@pytest.mark.parametrize("mutation", [CREATE, SEND_ONCE])
async def test_an_idempotency_key_is_ones_own(stage: Stage, attacker: Person, mutation: str) -> None:
    same = {"idempotencyKey": f"key {mutation}"} | ({"title": SECRET} if mutation is CREATE else {"text": SECRET})
    theirs = await stage.victim.do(mutation, **same)
    mine = await attacker.do(mutation, **same)
    assert mine["replayed"] is False
    assert mine["conversation"]["id"] != theirs["conversation"]["id"]
    again = await stage.victim.do(mutation, **same)
    assert (again["replayed"], again["conversation"]["id"]) == (True, theirs["conversation"]["id"])


@on_the_stage
async def test_somebody_elses_key_with_their_conversation_finds_nothing(stage: Stage, attacker: Person) -> None:
    world = await world_of(stage.victim, "Once")
    same = {"idempotencyKey": "once", "text": "Hello", "conversationId": world.conversation}
    await stage.victim.do(SEND_ONCE, **same)
    refused = await attacker.attempt(SEND_ONCE, **same)
    assert [error["code"] for error in refused["errors"]] == ["NOT_FOUND"]
    assert [refused[name] for name in ("conversation", "message", "reply", "replayed")] == [None, None, None, False]


# ── cursors ──


@on_the_stage
async def test_a_cursor_into_others_conversations_finds_ones_own(stage: Stage, attacker: Person) -> None:
    own = await world_of(attacker, "Hello")
    await world_of(stage.victim, "Later")
    page = await stage.victim.ask(PAGE)
    for edge in page["conversations"]["edges"]:
        found = await attacker.ask(PAGE, after=edge["cursor"])
        assert {each["node"]["id"] for each in found["conversations"]["edges"]} <= {own.conversation}


@on_the_stage
@pytest.mark.parametrize("field", ["messages", "allMessages"])
async def test_a_cursor_into_others_messages_is_as_one_of_nobodys(stage: Stage, attacker: Person, field: str) -> None:
    own = await world_of(attacker, "Hello")
    whole = "query ($id: ID!) { conversation(id: $id) { messages { edges { cursor } } } }"
    theirs = await stage.victim.ask(whole, id=stage.world.conversation)
    mine = await attacker.ask(whole, id=own.conversation)
    outcomes = []
    for cursor in (_changed(_cursor(mine)), _cursor(theirs)):
        variables = {"id": own.conversation, "after": cursor}
        outcomes.append(
            await stage.server.post({"query": MESSAGES.format(field), "variables": variables}, attacker.headers)
        )
    assert outcomes[0] == outcomes[1]
    assert "errors" in outcomes[1]


def _cursor(answer: dict[str, Any]) -> str:
    return str(answer["conversation"]["messages"]["edges"][0]["cursor"])


def _changed(cursor: str) -> str:
    """One of the same shape that points at nothing: another UUID."""
    return cursor[:-8] + ("AAAAAAAA" if not cursor.endswith("AAAAAAAA") else "BBBBBBBB")


@on_the_stage
async def test_a_cursor_of_another_reply_begins_ones_own_anew(stage: Stage, attacker: Person) -> None:
    own = await world_of(attacker, "Hello")
    seen = "query ($id: ID!) { message(id: $id) { streamCursor } }"
    cursor = (await stage.victim.ask(seen, id=stage.world.reply))["message"]["streamCursor"]
    stream = streamed(stage.server, attacker.access, "sse", WATCHED, id=own.settled, after=cursor)
    events = [event["data"]["replyStream"] async for event in stream]
    assert [event["__typename"] for event in events] == ["ReplySnapshot", "ReplyFinished"]
    assert events[1]["reply"]["text"] == "Well..."


@on_the_stage
async def test_a_cursor_of_anothers_feed_begins_ones_own_anew(stage: Stage, attacker: Person) -> None:
    await world_of(attacker, "Hello")
    cursors: list[str] = []
    for person, after in ((stage.victim, None), (attacker, None), (attacker, "theirs")):
        given = cursors[0] if after else None
        async with aclosing(streamed(stage.server, person.access, "sse", FEED, after=given)) as events:
            event = (await anext(events))["data"]["conversationEvents"]
        assert event["__typename"] == "ResyncRequired"
        cursors.append(event["cursor"])
    assert cursors[1] == cursors[2]


# ── feeds and streams that are open ──


@on_the_stage
async def test_the_feed_of_somebody_elses_conversation_says_nothing(stage: Stage, attacker: Person) -> None:
    theirs = await world_of(stage.victim, "Hello")
    async with ready_socket(stage.server.url, attacker.access) as socket:
        await socket.send(type="subscribe", id="all", payload={"query": EVENTS})
        await socket.send(
            type="subscribe", id="theirs", payload={"query": EVENTS, "variables": {"id": theirs.conversation}}
        )
        for _ in range(2):
            assert (await _happened(socket))[1] == "ResyncRequired"
        await stage.victim.do(SEND, text=SECRET, conversationId=theirs.conversation, waitMs=30_000)
        await attacker.do(SEND, text="Hi", waitMs=30_000)
        await stage.victim.do(DELETE, conversationId=theirs.conversation)
        await attacker.do(CREATE, title="Bye")
        told: list[tuple[str, str]] = []
        while [kind for _, kind in told].count("ConversationCreated") < 2:
            told.append(await _happened(socket))
    assert {id_ for id_, _ in told} == {"all"}
    assert "ConversationDeleted" not in [kind for _, kind in told]


async def _happened(socket: Socket) -> tuple[str, str]:
    message = await socket.receive()
    assert SECRET not in json.dumps(message)
    return message["id"], message["payload"]["data"]["conversationEvents"]["__typename"]


@on_the_stage
async def test_a_live_reply_of_somebody_else_is_refused_by_socket_as_one_that_does_not_exist(
    stage: Stage, attacker: Person
) -> None:
    await world_of(attacker, "Hello")
    refusals = []
    async with ready_socket(stage.server.url, attacker.access) as socket:
        for id_ in (stage.world.reply, stage.world.reply[:-1] + "_"):
            await socket.send(type="subscribe", id="1", payload={"query": STREAM, "variables": {"id": id_}})
            refusals.append(json.dumps(await socket.receive()).replace(id_, "given"))
    assert refusals[0] == refusals[1]
    assert '"error"' in refusals[0]
    assert "NOT_FOUND" in refusals[0]


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest_asyncio.fixture
async def slow(tmp_path: Path, gate: asyncio.Event) -> AsyncIterator[Serving]:
    """A server on which every reply says one word and goes on when the gate opens."""
    whole = answer("Well", "...")
    async with guarded(tmp_path, ScriptedModel([*whole[:2], gate, *whole[2:]])) as server:
        yield server
        gate.set()


async def live(person: Person) -> tuple[str, str]:
    """A conversation and its reply that is being made."""
    sent = await person.do(SEND, text="Hi")
    return sent["conversation"]["id"], sent["reply"]["id"]


async def test_a_stream_that_is_followed_ends_when_its_conversation_is_deleted(slow: Serving) -> None:
    person = await register(slow)
    conversation, reply = await live(person)
    events = streamed(slow, person.access, "sse", WATCHED, id=reply)
    await anext(events)
    await (await person.log_in()).do(DELETE, conversationId=conversation)
    last = [event async for event in events][-1]["data"]["replyStream"]
    assert last["reply"]["status"] == "STOPPED"
    after = await slow.post({"query": "query ($id: ID!) { message(id: $id) { id } }", "variables": {"id": reply}})
    assert "data" not in after
    assert (await person.ask("query ($id: ID!) { message(id: $id) { id } }", id=reply))["message"] is None


async def test_nothing_works_that_an_account_had_when_it_is_deleted(slow: Serving) -> None:
    person = await register(slow)
    _, key = await person.new_key()
    await live(person)
    second = await person.log_in()
    async with ready_socket(slow.url, key) as by_key, ready_socket(slow.url, second.access) as by_session:
        for socket in (by_key, by_session):
            await socket.send(type="subscribe", id="1", payload={"query": FEED})
            assert (await socket.receive())["type"] == "next"
        await person.do(LEAVE, password=person.password)
        assert {await by_key.close_code(), await by_session.close_code()} == {4403}
    assert [await code_of(slow, token) for token in (person.access, second.access, key)] == ["UNAUTHENTICATED"] * 3
    refused = (await slow.ask(LOGIN, input={"email": person.email, "password": person.password}))["login"]
    assert refused["errors"][0]["code"] == "BAD_CREDENTIALS"


async def test_the_address_of_a_deleted_account_is_free_and_finds_nothing_of_it(slow: Serving) -> None:
    person = await register(slow)
    conversation, _ = await live(person)
    await person.do(LEAVE, password=person.password)
    register_again = """mutation ($input: RegisterInput!) { register(input: $input) {
      viewer { id email conversations { totalCount } sessions { id } apiKeys { id } } accessToken errors { code } } }"""
    made = (await slow.ask(register_again, input={"email": person.email, "password": "another password"}))["register"]
    assert made["viewer"]["id"] != person.user_id
    assert made["viewer"]["conversations"]["totalCount"] == 0
    found = "query ($id: ID!) { conversation(id: $id) { id } }"
    assert (await slow.ask(found, bearing(made["accessToken"]), id=conversation))["conversation"] is None
