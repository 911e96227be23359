"""conversationEvents over real sockets: every transport, two tabs on two servers, and nothing that ages."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from persistence import schema
from persistence.database import Database
from tests.doubles import ScriptedModel
from tests.graph.protocol import MULTIPART, SSE, Socket, raw_socket
from tests.graph.readers import Event, broken_when_cut, frames_of
from tests.patience import PATIENCE_SECONDS
from tests.postgres import drop_database, new_database
from tests.serving import Serving, serving, settings_for

FOLLOW = """subscription ($after: String, $id: ID) { conversationEvents(after: $after, conversationId: $id) {
  __typename cursor at
  ... on ConversationCreated { conversation { id title } }
  ... on ConversationUpdated { conversation { id title } }
  ... on ConversationDeleted { conversationId }
  ... on MessageAdded { message { id role } conversation { id } }
  ... on MessageUpdated { message { id status text conversation { id title } } } } }"""
CREATE = "mutation ($title: String) { createConversation(input: {title: $title}) { conversation { id } } }"
RENAME = """mutation ($id: ID!, $title: String!) {
  renameConversation(input: {conversationId: $id, title: $title}) { errors { message } } }"""
DELETE = "mutation ($id: ID!) { deleteConversation(input: {conversationId: $id}) { deletedId } }"
SEND = """mutation ($id: ID) { sendMessage(input: {text: "Hi", conversationId: $id, waitMs: 10000}) {
  conversation { id } reply { id status } } }"""

Follow = Callable[..., AsyncGenerator[Event, None]]


async def by_socket(url: str, **variables: str | None) -> AsyncGenerator[Event, None]:
    async with broken_when_cut(), raw_socket(url) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init")
        await socket.receive()
        await socket.send(type="subscribe", id="1", payload={"query": FOLLOW, "variables": variables})
        while (message := await socket.receive())["type"] == "next":
            yield message["payload"]["data"]["conversationEvents"]


async def by_sse(url: str, **variables: str | None) -> AsyncGenerator[Event, None]:
    async for frame in frames_of(url, FOLLOW, variables, SSE, b"\n\n"):
        if frame.startswith(b"event: next"):
            yield json.loads(frame.removeprefix(b"event: next\ndata: "))["data"]["conversationEvents"]


async def by_multipart(url: str, **variables: str | None) -> AsyncGenerator[Event, None]:
    async for part in frames_of(url, FOLLOW, variables, MULTIPART, b"\r\n--graphql"):
        if body := json.loads(part.partition(b"\r\n\r\n")[2] or b"{}"):
            yield body["payload"]["data"]["conversationEvents"]


async def following(events: AsyncGenerator[Event, None]) -> str:
    """Wait until the reader is there; its fresh cursor."""
    first = await anext(events)
    assert first["__typename"] == "ResyncRequired"
    return str(first["cursor"])


async def until(events: AsyncIterator[Event], kind: str) -> list[Event]:
    read = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in events:
            read.append(event)
            if event["__typename"] == kind:
                break
    return read


@pytest.mark.parametrize("follow", [by_socket, by_sse, by_multipart])
async def test_a_conversation_is_followed_from_its_begin_to_its_end(server: Serving, follow: Follow) -> None:
    async with aclosing(follow(server.url)) as events:
        await following(events)
        sent = (await server.ask(SEND))["sendMessage"]
        conversation_id = sent["conversation"]["id"]
        await server.ask(RENAME, id=conversation_id, title="Mornings")
        named = {"id": conversation_id, "title": "Mornings"}
        read = await until(events, "ConversationUpdated")
        assert read[-1]["conversation"] == named
        await server.ask(DELETE, id=conversation_id)
        (deleted,) = await until(events, "ConversationDeleted")
        assert deleted["conversationId"] == conversation_id
    created, *added = read[:3]
    assert created["__typename"] == "ConversationCreated"
    assert [each["message"]["role"] for each in added] == ["USER", "ASSISTANT"]
    assert added[1]["message"]["id"] == sent["reply"]["id"]
    *_, ended = [each for each in read if each["__typename"] == "MessageUpdated"]
    assert (ended["message"]["status"], ended["message"]["text"]) == ("COMPLETE", "Hello there.")


@pytest.mark.parametrize("follow", [by_socket, by_sse, by_multipart])
async def test_a_reader_who_comes_back_with_a_cursor_hears_what_it_missed_and_no_more(
    server: Serving, follow: Follow
) -> None:
    async with aclosing(follow(server.url)) as events:
        cursor = await following(events)
    for title in ("One", "Two"):
        await server.ask(CREATE, title=title)
    async with aclosing(follow(server.url, after=cursor)) as events:
        missed = [await anext(events), await anext(events)]
    assert [each["conversation"]["title"] for each in missed] == ["One", "Two"]


async def test_one_conversation_is_followed_alone(server: Serving) -> None:
    ids = [(await server.ask(CREATE))["createConversation"]["conversation"]["id"] for _ in range(2)]
    async with aclosing(by_socket(server.url, id=ids[0])) as events:
        await following(events)
        for conversation_id in reversed(ids):
            await server.ask(DELETE, id=conversation_id)
        assert (await anext(events))["conversationId"] == ids[0]


async def test_what_an_event_carries_is_as_it_is_when_the_event_comes(server: Serving) -> None:
    """One subscription may last for days: what was loaded for an earlier event must not be shown again."""
    async with aclosing(by_socket(server.url)) as events:
        await following(events)
        conversation_id = (await server.ask(SEND))["sendMessage"]["conversation"]["id"]
        assert (await ended(events))["conversation"]["title"] == "Hi"
        await server.ask(RENAME, id=conversation_id, title="Later")
        await server.ask(SEND, id=conversation_id)
        assert (await ended(events))["conversation"]["title"] == "Later"


async def ended(events: AsyncIterator[Event]) -> Event:
    """The next message that is said to be complete."""
    while True:
        message: Event = (await until(events, "MessageUpdated"))[-1]["message"]
        if message["status"] == "COMPLETE":
            return message


# ── two tabs ──


@pytest.fixture
async def two_servers(postgres: str, tmp_path: Path) -> AsyncIterator[tuple[Serving, Serving]]:
    url = await new_database(postgres)
    database = Database(url)
    await schema.upgrade(database)
    await database.close()
    settings = settings_for(tmp_path, database_url=url)
    async with serving(settings, ScriptedModel()) as one, serving(settings, ScriptedModel()) as other:
        yield one, other
    await drop_database(postgres, url)


async def busy(server: Serving, name: str) -> None:
    for number in range(5):
        sent = await server.ask(SEND)
        conversation_id = sent["sendMessage"]["conversation"]["id"]
        await server.ask(RENAME, id=conversation_id, title=f"{name} {number}")
        if number % 2:
            await server.ask(DELETE, id=conversation_id)


@asynccontextmanager
async def collecting(server: Serving, seen: list[Event]) -> AsyncIterator[asyncio.Task[None]]:
    """Follow until the conversation "The end" begins."""

    async def collect() -> None:
        async with aclosing(by_socket(server.url)) as events:
            await following(events)
            there.set()
            async for event in events:
                seen.append(event)
                if event.get("conversation", {}).get("title") == "The end":
                    break

    there = asyncio.Event()
    task = asyncio.create_task(collect())
    await there.wait()
    yield task
    async with asyncio.timeout(PATIENCE_SECONDS):
        await task


async def test_two_tabs_on_two_servers_see_the_same_in_the_same_order(two_servers: tuple[Serving, Serving]) -> None:
    """What had changed again when a slower reader came to it is joined or left out there: so compare the rest."""
    one, other = two_servers
    seen: tuple[list[Event], list[Event]] = ([], [])
    async with collecting(one, seen[0]), collecting(other, seen[1]):
        await asyncio.gather(busy(one, "one"), busy(other, "other"))
        await one.ask(CREATE, title="The end")
    kept = [{event["cursor"]: event["__typename"] for event in each} for each in seen]
    both = kept[0].keys() & kept[1].keys()
    for each in kept:
        assert {"ConversationDeleted", "ConversationUpdated", "MessageAdded", "MessageUpdated"} <= set(each.values())
    assert [each for each in kept[0].items() if each[0] in both] == [
        each for each in kept[1].items() if each[0] in both
    ]
    ends = [[event["cursor"] for event in each if event["__typename"] == "ConversationDeleted"] for each in seen]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 4
