"""How many statements an operation sends: as many for one thing as for many, whatever is asked of each."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from persistence import schema
from persistence.database import Database
from tests.doubles import ScriptedModel
from tests.persistence.statements import sent_statements
from tests.postgres import new_database
from tests.serving import Serving, serving, settings_for

SEND = """mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id } reply { status } errors { message } } }"""
LIST = """query ($first: Int) { conversations(first: $first) { totalCount nodes { id title
  leaf { text generation { usage { totalTokens } } conversation { title } } activeReplies { id } } } }"""
PAGE = """query ($id: ID!, $first: Int, $last: Int, $after: String, $before: String) { conversation(id: $id) {
  messages(first: $first, last: $last, after: $after, before: $before) {
    pageInfo { startCursor endCursor }
    nodes { text generation { usage { totalTokens } } siblingIndex conversation { title } } } } }"""
AROUND = """query ($id: ID!, $last: Int) { conversation(id: $id) { messages(last: $last) {
    nodes { text generation { usage { totalTokens } } siblings { id } children { text } parent { text } } } } }"""


@pytest.fixture
async def reading(tmp_path: Path, model: ScriptedModel, postgres: str) -> AsyncIterator[Serving]:
    """A server without a worker, so that it sends nothing but what is asked for; what is there another one has made."""
    settings = settings_for(tmp_path, database_url=await new_database(postgres))
    database = Database(settings.database_url)
    await schema.upgrade(database)
    await database.close()
    async with serving(settings, model) as writing:
        for text in "abcdef":
            answer = await writing.ask(SEND, input={"text": text, "waitMs": 5000})
        for text in "ghij":
            more = {"conversationId": answer["sendMessage"]["conversation"]["id"], "text": text, "waitMs": 5000}
            assert (await writing.ask(SEND, input=more))["sendMessage"]["reply"]["status"] == "COMPLETE"
    async with serving(settings.model_copy(update={"worker": False}), model) as server:
        yield server


async def statements(server: Serving, query: str, **variables: Any) -> tuple[int, dict[str, Any]]:
    with sent_statements() as sent:
        data = await server.ask(query, **variables)
    return len(sent), data


async def test_a_page_of_conversations_with_last_messages_and_usage_is_five_statements(reading: Serving) -> None:
    for many in (1, 6):
        sent, data = await statements(reading, LIST, first=many)
        assert len(data["conversations"]["nodes"]) == many
        assert sent == 5


async def test_a_page_of_messages_is_four_statements_wherever_it_is(reading: Serving) -> None:
    conversation_id = (await reading.ask(LIST, first=1))["conversations"]["nodes"][0]["id"]
    for arguments in ({"last": 1}, {"last": 8}, {"first": 1}, {"first": 8}):
        sent, page = await statements(reading, PAGE, id=conversation_id, **arguments)
        assert len(page["conversation"]["messages"]["nodes"]) == sum(arguments.values())
        assert sent == 4
    cursor = page["conversation"]["messages"]["pageInfo"]["endCursor"]
    for arguments in ({"first": 2, "after": cursor}, {"last": 7, "before": cursor}):
        sent, _ = await statements(reading, PAGE, id=conversation_id, **arguments)
        assert sent == 5


async def test_what_is_around_the_messages_of_a_page_is_loaded_once_for_all_of_them(reading: Serving) -> None:
    """One statement for what is not on the page itself, where there is anything."""
    conversation_id = (await reading.ask(LIST, first=1))["conversations"]["nodes"][0]["id"]
    for size, more in ((10, 0), (6, 1)):
        sent, _ = await statements(reading, AROUND, id=conversation_id, last=size)
        assert sent == 4 + more
