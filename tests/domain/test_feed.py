"""Following what happens to one's conversations: what a reader has after k, joined with what `after: k` yields, equals
the whole."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.accounts import User
from domain.conversations import Change, ConversationEvent, Message, Role, SeedMessage
from domain.feed import (
    READ_AT_ONCE,
    ConversationCreated,
    ConversationDeleted,
    ConversationUpdated,
    FeedEvent,
    Happened,
    MessageAdded,
    MessageUpdated,
    ResyncRequired,
    joined,
)
from domain.inputs import CreateConversation, EditMessage, RegenerateReply
from domain.replies import ReplyStatus
from domain.streaming import cursor_at
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.doubles import ScriptedModel, Step, WordCounter, answer
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings_for


@dataclass
class Sidebar:
    """A client: applies events as the documentation says, and knows nothing else."""

    titles: dict[str, str] = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    cursor: str | None = None

    def apply(self, told: FeedEvent) -> None:
        match told.event:
            case ConversationCreated(conversation) | ConversationUpdated(conversation):
                self.titles[conversation.id] = conversation.title
            case ConversationDeleted(conversation_id):
                self.titles.pop(conversation_id, None)
                gone = [each.id for each in self.messages.values() if each.conversation_id == conversation_id]
                for message_id in gone:
                    del self.messages[message_id]
            case MessageAdded(message, conversation):
                self.titles[conversation.id] = conversation.title
                self.messages[message.id] = message
            case MessageUpdated(message):
                self.messages[message.id] = message
            case ResyncRequired():
                pass
        self.cursor = told.cursor


async def begin(talk: Talk) -> str:
    """A fresh cursor."""
    async with aclosing(follow(talk)) as stream:
        first = await anext(stream)
    assert first.event == ResyncRequired()
    return first.cursor


def follow(talk: Talk, after: str | None = None, conversation_id: str | None = None) -> AsyncGenerator[FeedEvent, None]:
    return talk.running.services.feed.follow(ME, after, conversation_id)


async def read_until(stream: AsyncGenerator[FeedEvent, None], is_last: Callable[[Happened], bool]) -> list[FeedEvent]:
    read = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for told in stream:
            read.append(told)
            if is_last(told.event):
                break
    await stream.aclose()
    return read


def is_end_of(reply_id: str) -> Callable[[Happened], bool]:
    """Whether an event says that this reply has ended."""

    def says_so(event: Happened) -> bool:
        return (
            isinstance(event, MessageAdded | MessageUpdated)
            and event.message.id == reply_id
            and event.message.reply is not None
            and event.message.reply.status.settled
        )

    return says_so


async def caught_up(talk: Talk, after: str | None, conversation_id: str | None = None) -> list[FeedEvent]:
    """All that happened after the cursor until now: something is done, and read until it is told."""
    conversations = talk.running.services.conversations
    marked = conversation_id or (await conversations.create(ME, CreateConversation()))[0]
    await conversations.rename(ME, marked, "Read until here")
    stream = follow(talk, after, conversation_id)
    read = await read_until(stream, lambda e: isinstance(e, ConversationUpdated) and e.conversation.id == marked)
    if conversation_id is not None:
        return read[:-1]
    begun = ConversationCreated(await conversations.get(ME, marked))
    return [each for each in read[:-1] if each.event != begun]


def kinds(told: Sequence[FeedEvent]) -> list[str]:
    return [type(each.event).__name__ for each in told]


# ── what is told ──


async def test_a_message_in_a_new_conversation_is_told_from_its_begin_to_the_end_of_its_reply(talk: Talk) -> None:
    cursor = await begin(talk)
    sent = await talk.send("Good morning")
    told = await read_until(follow(talk, cursor), is_end_of(sent.reply_id))
    assert kinds(told)[:3] == ["ConversationCreated", "MessageAdded", "MessageAdded"]
    assert set(kinds(told)[3:]) <= {"MessageUpdated"}
    added = [each.event for each in told[1:3]]
    assert [e.message.id for e in added if isinstance(e, MessageAdded)] == [sent.message_id, sent.reply_id]
    assert {e.conversation.title for e in added if isinstance(e, MessageAdded)} == {"Good morning"}


async def test_a_reader_who_listens_hears_of_every_status_of_a_reply(talk: Talk, model: ScriptedModel) -> None:
    gate = asyncio.Event()
    script: list[Step] = answer("Hello")
    model.play([*script[:-1], gate, *script[-1:]])
    stream = follow(talk)
    await anext(stream)
    sent = await talk.send()
    seen: list[ReplyStatus] = []
    async with aclosing(stream), asyncio.timeout(PATIENCE_SECONDS):
        async for told in stream:
            if isinstance(told.event, MessageAdded | MessageUpdated) and told.event.message.id == sent.reply_id:
                assert told.event.message.reply is not None
                seen.append(told.event.message.reply.status)
                if seen[-1] is ReplyStatus.STREAMING:
                    gate.set()
                if seen[-1].settled:
                    break
    assert seen[-2:] == [ReplyStatus.STREAMING, ReplyStatus.COMPLETE]


async def test_a_conversation_with_a_history_is_one_event(talk: Talk) -> None:
    cursor = await begin(talk)
    history = (SeedMessage(Role.USER, ("Hi",)), SeedMessage(Role.ASSISTANT, ("Hello",)))
    await talk.running.services.conversations.create(ME, CreateConversation(history=history))
    assert kinds(await caught_up(talk, cursor)) == ["ConversationCreated"]


async def test_a_replayed_command_happens_once(talk: Talk) -> None:
    cursor = await begin(talk)
    for _ in range(2):
        await talk.running.services.conversations.create(ME, CreateConversation(idempotency_key="k"))
    assert kinds(await caught_up(talk, cursor)) == ["ConversationCreated"]


async def test_edits_and_regenerations_add_messages(talk: Talk) -> None:
    reply = await talk.say()
    replies, cursor = talk.running.services.replies, await begin(talk)
    edited = await replies.edit_message(ME, EditMessage(talk.sent[0].message_id or "", "Hello"))
    again = await replies.regenerate_reply(ME, RegenerateReply(reply.id))
    told = [each.event for each in await caught_up(talk, cursor)]
    added = [event.message.id for event in told if isinstance(event, MessageAdded)]
    assert added == [edited.message_id, edited.reply_id, again.reply_id]


async def test_renaming_and_deleting_are_told(talk: Talk) -> None:
    conversations, cursor = talk.running.services.conversations, await begin(talk)
    conversation_id, _ = await conversations.create(ME, CreateConversation(title="Old"))
    await conversations.rename(ME, conversation_id, "New")
    (created, renamed) = await caught_up(talk, cursor)
    assert isinstance(renamed.event, ConversationUpdated)
    assert renamed.event.conversation.title == "New"
    await conversations.delete(ME, conversation_id)
    told = await caught_up(talk, created.cursor)
    assert told[-1].event == ConversationDeleted(conversation_id)


async def test_of_a_deleted_conversation_only_its_end_is_told(talk: Talk) -> None:
    cursor = await begin(talk)
    await talk.say()
    conversation_id = talk.sent[0].conversation_id
    await talk.running.services.conversations.delete(ME, conversation_id)
    assert [each.event for each in await caught_up(talk, cursor)] == [ConversationDeleted(conversation_id)]


async def test_readers_of_conversations_that_are_given_away_query_anew_and_the_new_user_is_told_how_a_reply_ends(
    talk: Talk, model: ScriptedModel
) -> None:
    gate, script = asyncio.Event(), answer("Hello")
    model.play([*script[:-1], gate, *script[-1:]])
    sent, ada = await talk.send(), User("user_ada", "Ada", datetime.now(UTC))
    cursor = await begin(talk)
    async with talk.running.storage.write() as work:
        await work.users.add(ada, None)
        await work.conversations.give(ME, ada.id)
        await work.commit()
    old = await read_until(follow(talk, cursor), lambda event: event == ResyncRequired())
    gate.set()
    stream = talk.running.services.feed.follow(ada.id, cursor_at(ada.id, 0))
    new = await read_until(stream, is_end_of(sent.reply_id))
    assert [e for e in kinds(old) if e != "MessageUpdated"] == ["ResyncRequired"]
    assert kinds(new)[0] == "ResyncRequired"
    assert set(kinds(new)[1:]) == {"MessageUpdated"}


async def test_a_reply_that_is_stopped_in_the_queue_is_told(talk: Talk, model: ScriptedModel) -> None:
    model.play([asyncio.Event()])
    first = await talk.send()
    second = await talk.send(conversation_id=first.conversation_id)
    cursor = await begin(talk)
    await talk.running.services.replies.stop_reply(ME, second.reply_id)
    stopped = (await read_until(follow(talk, cursor), is_end_of(second.reply_id)))[-1].event
    assert isinstance(stopped, MessageUpdated)
    assert stopped.message.reply is not None
    assert stopped.message.reply.status is ReplyStatus.STOPPED


async def test_one_conversation_can_be_followed_alone(talk: Talk) -> None:
    cursor = await begin(talk)
    await talk.say()
    await talk.say()
    told = await caught_up(talk, cursor, talk.sent[1].conversation_id)
    assert kinds(told)[:3] == ["ConversationCreated", "MessageAdded", "MessageAdded"]
    ids = {e.event.message.conversation_id for e in told if isinstance(e.event, MessageAdded | MessageUpdated)}
    assert ids == {talk.sent[1].conversation_id}


async def test_what_happens_to_others_is_not_told(talk: Talk) -> None:
    stream = talk.running.services.feed.follow("user_somebody")
    assert (await anext(stream)).event == ResyncRequired()
    waiting = asyncio.ensure_future(anext(stream))
    await talk.say()
    assert not waiting.done()
    waiting.cancel()


# ── cursors ──


async def test_without_a_cursor_that_can_be_served_a_fresh_one_comes_first_and_then_what_follows(talk: Talk) -> None:
    await talk.say()
    current = await begin(talk)
    future = cursor_at(ME, 10**6)
    for cursor in [None, "", "%%%", cursor_at("user_somebody", 1), future, cursor_at(ME, 10**30)]:
        stream = follow(talk, cursor)
        first = await anext(stream)
        assert (first.event, first.cursor) == (ResyncRequired(), current)
        conversation_id, _ = await talk.running.services.conversations.create(ME, CreateConversation())
        (created,) = await read_until(stream, lambda event: isinstance(event, ConversationCreated))
        assert isinstance(created.event, ConversationCreated)
        assert created.event.conversation.id == conversation_id
        current = created.cursor


async def test_after_a_sweep_an_old_cursor_needs_a_resync_and_the_newest_does_not(talk: Talk) -> None:
    old = await begin(talk)
    await talk.say()
    newest = await begin(talk)
    async with talk.running.storage.write() as work:
        await work.feed.sweep(timedelta())
        await work.commit()
    assert kinds(await caught_up(talk, newest)) == []
    async with aclosing(follow(talk, old)) as stream:
        assert (await anext(stream)).event == ResyncRequired()


async def test_more_events_than_are_read_at_once_come_in_their_order(talk: Talk) -> None:
    cursor = await begin(talk)
    create = talk.running.services.conversations.create
    made = [(await create(ME, CreateConversation()))[0] for _ in range(READ_AT_ONCE + 5)]
    told = [each.event for each in await caught_up(talk, cursor)]
    assert [event.conversation.id for event in told if isinstance(event, ConversationCreated)] == made


async def test_two_readers_are_told_the_same(talk: Talk) -> None:
    streams = [follow(talk), follow(talk)]
    for stream in streams:
        await anext(stream)
    sent = await talk.send()
    one, other = await asyncio.gather(*(read_until(stream, is_end_of(sent.reply_id)) for stream in streams))
    assert sidebar_after(one) == sidebar_after(other)


async def test_an_open_stream_is_counted_until_it_is_closed(talk: Talk) -> None:
    gauge = talk.running.telemetry.subscribers
    stream = follow(talk)
    await anext(stream)
    assert gauge._value.get() == 1
    await stream.aclose()
    assert gauge._value.get() == 0


# ── laws ──


def sidebar_after(told: Sequence[FeedEvent], sidebar: Sidebar | None = None) -> Sidebar:
    sidebar = sidebar or Sidebar()
    for each in told:
        sidebar.apply(each)
    return sidebar


events = st.lists(
    st.builds(
        ConversationEvent,
        seq=st.just(0),
        at=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
        kind=st.sampled_from(Change),
        conversation_id=st.sampled_from(["conv_1", "conv_2"]),
        message_id=st.sampled_from([None, "msg_1"]),
    ),
    max_size=12,
)


@given(events)
def test_joining_keeps_what_happened_last_and_no_equal_neighbours(found: list[ConversationEvent]) -> None:
    told = joined(found)
    assert told[-1:] == found[-1:]
    assert joined(told) == told
    assert {(e.kind, e.conversation_id, e.message_id) for e in told} == {
        (e.kind, e.conversation_id, e.message_id) for e in found
    }


deeds = st.lists(st.sampled_from(["create", "rename", "send", "say", "delete"]), min_size=1, max_size=12)


async def do(talk: Talk, deed: str, made: list[str], number: int) -> None:
    service = talk.running.services.conversations
    if deed == "create" or not made:
        made.append((await service.create(ME, CreateConversation()))[0])
    elif deed == "rename":
        await service.rename(ME, made[number % len(made)], f"Title {number}")
    elif deed == "delete":
        await service.delete(ME, made.pop(number % len(made)))
    elif deed == "send":
        await talk.send(conversation_id=made[number % len(made)])
    else:
        await talk.say(conversation_id=made[number % len(made)])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(deeds=deeds, cuts=st.sets(st.integers(0, 60)))
async def test_what_a_reader_has_joined_with_what_comes_after_equals_the_whole(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[str], cuts: set[int]
) -> None:
    """Random deeds, seen by one who never leaves, one who leaves at random events, and one who comes at the end."""
    folder = tmp_path_factory.mktemp("law")
    async with open_services(settings_for(folder), model=ScriptedModel(), tokens=WordCounter()) as running:
        talk, made = Talk(running, ScriptedModel()), list[str]()
        cursor, restless = await begin(talk), Sidebar()
        for number, deed in enumerate(deeds):
            await do(talk, deed, made, number)
            if number in cuts:
                sidebar_after(await caught_up(talk, restless.cursor or cursor), restless)
        for sent in talk.sent:
            await running.services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
        whole = await caught_up(talk, cursor)
        sidebar_after(await caught_up(talk, restless.cursor or cursor), restless)
        for cut, told in enumerate(whole):
            if cut in cuts:
                late = sidebar_after(whole[: cut + 1])
                sidebar_after(await caught_up(talk, told.cursor), late)
                assert visible(late, made) == visible(sidebar_after(whole), made)
    assert visible(restless, made) == visible(sidebar_after(whole), made)
    assert all(message.reply.status.settled for message in restless.messages.values() if message.reply)


def visible(sidebar: Sidebar, made: Sequence[str]) -> tuple[dict[str, str], dict[str, Message]]:
    """Without the conversations that `caught_up` itself began."""
    return {each: sidebar.titles[each] for each in made}, sidebar.messages
