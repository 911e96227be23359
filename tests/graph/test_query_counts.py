"""How many statements an operation sends: as many for one thing as for many, whatever is asked of each."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import ScriptedModel
from tests.persistence.statements import sent_statements
from tests.serving import Serving, serving, settings_for

SEND = """mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id } reply { status } errors { message } } }"""
LIST = """query ($first: Int) { conversations(first: $first) { totalCount nodes { id title
  leaf { text generation { usage { totalTokens } } conversation { title } } activeReplies { id } } } }"""
PAGE = """query ($id: ID!, $first: Int, $last: Int, $after: String, $before: String) { conversation(id: $id) {
  messages(first: $first, last: $last, after: $after, before: $before) {
    pageInfo { startCursor endCursor }
    nodes { text generation { usage { totalTokens } } siblingIndex siblings { id } children { id } parent { id }
      conversation { title } } } } }"""


@pytest.fixture
async def reading(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Serving]:
    """A server without a worker, so that it sends nothing but what is asked for; what is there another one has made."""
    settings = settings_for(tmp_path)
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


async def test_a_page_of_conversations_with_last_messages_and_usage_is_six_statements(reading: Serving) -> None:
    for many in (1, 6):
        sent, data = await statements(reading, LIST, first=many)
        assert len(data["conversations"]["nodes"]) == many
        assert sent == 6


async def test_a_page_of_messages_is_four_statements_and_what_is_around_them_six_more(reading: Serving) -> None:
    newest = (await reading.ask(LIST, first=1))["conversations"]["nodes"][0]["id"]
    for page in ({"last": 1}, {"last": 8}, {"first": 8}):
        sent, data = await statements(reading, PAGE, id=newest, **page)
        assert len(data["conversation"]["messages"]["nodes"]) == next(iter(page.values()))
        assert sent == 10
