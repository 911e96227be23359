"""How much text one answer may hold: enough for the longest page, and no more however often it is asked for."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from graph import context
from tests.doubles import ScriptedModel, answer
from tests.security.people import Person, guarded, register, streamed
from tests.serving import Serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
CREATE = """mutation ($input: CreateConversationInput!) { createConversation(input: $input) {
  conversation { id } errors { code } } }"""
RENAME = "mutation ($input: RenameConversationInput!) { renameConversation(input: $input) { errors { code } } }"
LONG = 100_000
PAGE = "messages(first: 100) { nodes { %s } }"
TWICE = {
    "text by alias": PAGE % "a: text b: text",
    "parts by alias": PAGE % "a: parts { ... on TextPart { text } } b: parts { ... on TextPart { text } }",
    "text of parts by alias": PAGE % "parts { ... on TextPart { a: text b: text } }",
    "text and parts": PAGE % "text parts { ... on TextPart { text } }",
    "pages by alias": " ".join(f"{name}: {PAGE % 'text'}" for name in "ab"),
    "branches": PAGE % "text children { text }",
}


@dataclass(frozen=True)
class Writer:
    """Somebody whose conversation has 100 messages of 100,000 characters."""

    person: Person
    conversation: str

    async def read(self, selection: str) -> dict[str, Any]:
        query = f"query ($id: ID!) {{ conversation(id: $id) {{ {selection} }} }}"
        return await self.post(query, id=self.conversation)

    async def post(self, query: str, **variables: Any) -> dict[str, Any]:
        return await self.person.server.post({"query": query, "variables": variables}, self.person.headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def writer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Writer]:
    folder: Path = tmp_path_factory.mktemp("answers")
    async with guarded(folder, ScriptedModel(answer("Hello")), max_history_body_bytes=12_000_000) as server:
        yield await written(server)


async def written(server: Serving) -> Writer:
    person = await register(server)
    history = [{"role": "USER", "text": "word " * 20_000} for _ in range(100)]
    made = await person.do(
        CREATE, history=history, settings={"systemPrompt": "word " * 20_000}, metadata={"a": "z" * 16_000}
    )
    return Writer(person, made["conversation"]["id"])


def refused(body: dict[str, Any]) -> bool:
    errors = body.get("errors", [])
    return bool(errors) and all(
        each["extensions"]["code"] == "QUERY_TOO_COMPLEX" and "fewer messages" in each["message"] for each in errors
    )


async def test_a_page_of_the_longest_messages_is_readable(writer: Writer) -> None:
    for selection in ("text", "parts { ... on TextPart { text } }"):
        body = await writer.read(PAGE % f"id role {selection}")
        assert len(str(body)) > 100 * LONG
        assert "errors" not in body


@pytest.mark.parametrize("selection", TWICE.values(), ids=TWICE.keys())
async def test_texts_are_counted_each_time_they_are_in_the_answer(writer: Writer, selection: str) -> None:
    body = await writer.read(selection)
    assert refused(body)
    assert len(str(body)) < 100_000


async def test_one_conversation_may_not_be_asked_for_ninety_times(writer: Writer) -> None:
    page = (PAGE % " ".join(f"a{number}: text" for number in range(3))).replace("100", "40")
    query = f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on Conversation {{ {page} }} }} }}"
    body = await writer.post(query, ids=[writer.conversation] * 90)
    assert refused(body)
    assert len(str(body)) < 20_000_000


@pytest.mark.parametrize("selection", ["settings { systemPrompt }", "metadata"])
async def test_prompts_and_metadata_are_counted(writer: Writer, selection: str) -> None:
    aliases = " ".join(f"a{number}: {selection}" for number in range(14))
    query = f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on Conversation {{ {aliases} }} }} }}"
    assert refused(await writer.post(query, ids=[writer.conversation] * 100))


async def test_equal_ids_are_loaded_once_and_answered_in_their_order(writer: Writer) -> None:
    ids = [writer.conversation, "conv_0", writer.person.user_id, writer.conversation]
    body = await writer.post("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=ids)
    assert [node and node["id"] for node in body["data"]["nodes"]] == [ids[0], None, ids[2], ids[3]]


async def test_every_event_may_hold_as_much(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "subscription ($after: String) { conversationEvents(after: $after) { cursor %s } }"
    changed = "... on ConversationUpdated { conversation { messages { nodes { text } } } }"
    person = writer.person
    short = await person.do(CREATE, history=[{"role": "USER", "text": "x" * 100}])
    async with aclosing(streamed(person.server, person.access, "sse", query % "")) as events:
        start = (await anext(events))["data"]["conversationEvents"]["cursor"]
    monkeypatch.setattr(context, "MAX_CHARACTERS", 150)
    async with aclosing(streamed(person.server, person.access, "sse", query % changed, after=start)) as events:
        for title in ("One", "Two"):
            await person.do(RENAME, conversationId=short["conversation"]["id"], title=title)
            assert "x" * 100 in str(await anext(events))
