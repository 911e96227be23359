"""Following a reply: what a reader has after k, joined with what `after: k` yields, equals the whole."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.conversations import GenerationSettings, MessagePart, PartKind
from domain.errors import NotFound
from domain.events import Folder, LoggedEvent, PartAdded, StatusChanged, TextDelta, ToolCallChanged
from domain.models import ArgumentsChunk, TextChunk, ToolCallChunk
from domain.replies import ReplyStatus
from domain.streaming import ArgumentsWritten, Ended, Push, Snapshot, StreamedEvent, cursor_at, position_in
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.doubles import ScriptedModel, Step, WordCounter, answer
from tests.letters import PostOffice
from tests.serving import settings_for


class Screen:
    """A client: applies events as the documentation says, and knows nothing else."""

    def __init__(self) -> None:
        self.parts: list[MessagePart] = []
        self.cursor: str | None = None
        self.status: ReplyStatus | None = None
        self.ended = False

    def apply(self, streamed: StreamedEvent) -> None:
        match streamed.event:
            case Snapshot(message):
                self.parts = list(message.parts)
            case PartAdded(index, kind, call):
                self.parts.append(MessagePart(index, kind, call=call))
            case ArgumentsWritten(index, call_id, text):
                written = self.parts[index].call
                assert written is not None
                assert written.id == call_id
                longer = replace(written, arguments_text=written.arguments_text + text)
                self.parts[index] = replace(self.parts[index], call=longer)
            case ToolCallChanged(index, changed):
                self.parts[index] = replace(self.parts[index], call=changed)
            case TextDelta(index, text):
                old = self.parts[index]
                self.parts[index] = MessagePart(index, old.kind, old.text + text)
            case StatusChanged(status):
                self.status = status
            case Ended(message):
                self.ended = True
                self.status = message.reply.status if message.reply else None
            case _:
                pass
        self.cursor = streamed.cursor

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


async def test_a_reader_sees_a_snapshot_then_deltas_then_the_end(talk: Talk) -> None:
    sent = await talk.send()
    events = await talk.watch(sent.reply_id)
    assert isinstance(events[0].event, Snapshot)
    assert isinstance(events[-1].event, Ended)
    assert events[-1].event.message.text == "Hello there."


async def test_a_settled_reply_is_a_snapshot_and_the_end(talk: Talk) -> None:
    reply = await talk.say()
    events = [type(e.event) for e in await talk.watch(reply.id)]
    assert events == [Snapshot, Ended]


async def test_a_settled_reply_always_ends_whatever_the_cursor_says(talk: Talk) -> None:
    reply = await talk.say()
    last = reply.cursor or 0
    for cursor in [cursor_at(reply.id, last), cursor_at(reply.id, last + 5), cursor_at("msg_other", 1), "%%%", ""]:
        events = await talk.watch(reply.id, cursor)
        assert isinstance(events[-1].event, Ended)
        if cursor != cursor_at(reply.id, last):
            assert isinstance(events[0].event, Snapshot)


async def test_a_reply_goes_on_when_its_reader_leaves(talk: Talk, model: ScriptedModel) -> None:
    gate = asyncio.Event()
    model.play(gated("one", gate, " two"))
    sent = await talk.send()
    stream = await talk.running.services.stream.follow(ME, sent.reply_id, None)
    await anext(stream)
    await stream.aclose()
    gate.set()
    assert (await talk.settled(sent.reply_id)).text == "one two"


async def test_two_readers_of_one_reply_both_see_all_of_it(talk: Talk) -> None:
    sent = await talk.send()
    for events in await asyncio.gather(talk.watch(sent.reply_id), talk.watch(sent.reply_id)):
        assert screen_after(events).text == "Hello there."


async def test_a_foreign_reply_is_not_there(talk: Talk) -> None:
    reply = await talk.say()
    with pytest.raises(NotFound):
        await talk.running.services.stream.follow("user_somebody", reply.id, None)


async def test_a_users_message_has_no_stream(talk: Talk) -> None:
    sent = await talk.send()
    with pytest.raises(NotFound):
        await talk.running.services.stream.follow(ME, sent.message_id or "", None)


async def test_deleting_the_conversation_ends_the_stream_with_a_stopped_reply(talk: Talk, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    sent = await talk.send()
    stream = await talk.running.services.stream.follow(ME, sent.reply_id, None)
    await anext(stream)
    await talk.running.services.conversations.delete(ME, sent.conversation_id)
    events = [event async for event in stream]
    assert isinstance(events[-1].event, Ended)
    assert events[-1].event.message.reply is not None
    assert events[-1].event.message.reply.status is ReplyStatus.STOPPED


async def test_after_the_log_is_swept_an_old_cursor_gets_a_snapshot_and_the_end(talk: Talk) -> None:
    reply = await talk.say()
    async with talk.running.storage.write() as work:
        now = talk.running.worker._clock.now()  # the log's age is counted from the reply's end
        assert await work.log.sweep(now) > 0
        await work.commit()
    events = await talk.watch(reply.id, cursor_at(reply.id, 2))
    assert [type(e.event) for e in events] == [Snapshot, Ended]


@given(st.text(max_size=40))
def test_no_text_is_an_error_as_a_cursor(cursor: str) -> None:
    assert position_in("msg_1", cursor) is None


@given(st.integers(0, 10**8))
def test_a_cursor_says_its_number_to_its_own_reply_only(seq: int) -> None:
    assert position_in("msg_1", cursor_at("msg_1", seq)) == seq
    assert position_in("msg_2", cursor_at("msg_1", seq)) is None


def gated(*steps: str | asyncio.Event) -> list[Step]:
    """The script of an answer that waits at the events."""
    whole = answer(*("x" for _ in range(len(steps))))
    whole[1:-1] = [step if isinstance(step, asyncio.Event) else answer(step)[1] for step in steps]
    return whole


def screen_after(events: Sequence[StreamedEvent], screen: Screen | None = None) -> Screen:
    screen = screen or Screen()
    for event in events:
        screen.apply(event)
    return screen


pieces = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    pieces=pieces,
    cuts=st.lists(st.integers(1, 6), max_size=12),
    lazy=st.booleans(),
    taken=st.lists(st.sampled_from([True, True, False, None]), min_size=1, max_size=6),
    data=st.data(),
)
async def test_what_a_reader_has_joined_with_what_comes_after_equals_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[str],
    cuts: list[int],
    lazy: bool,
    taken: list[bool | None],
    data: st.DataObject,
) -> None:
    """Random texts, written at random moments, read in random stretches with a reconnect after each.

    Some of it is pushed where it is `taken`; None is a fault of whoever should take it.
    """
    gates = [asyncio.Event() for _ in pieces]
    model = ScriptedModel(gated(*(step for pair in zip(gates, pieces, strict=True) for step in pair)))
    folder = tmp_path_factory.mktemp("law")
    async with open_services(settings_for(folder), model=model, tokens=WordCounter()) as running:
        talk = Talk(running, model)
        sent = await talk.send()
        screen, forgetful = await read_in_cuts(talk, sent.reply_id, gates, cuts, data, cycle(taken), lazy=lazy)
        stored = await talk.message(sent.reply_id)
    assert screen.ended
    assert screen.text == forgetful.text == stored.text == "".join(pieces)


@st.composite
def calls(draw: st.DrawFn) -> list[Step]:
    """The script of an answer with text and calls, whose arguments come in any pieces, good ones and bad ones."""
    steps: list[Step] = [TextChunk(text) for text in draw(st.lists(st.sampled_from(["Let me ", "see."]), max_size=2))]
    for index in range(draw(st.integers(1, 3))):
        arguments = draw(st.sampled_from(['{"grams": 20}', '{"grams": "many"}', '{"grams": 1, ', ""]))
        ends = sorted({*draw(st.lists(st.integers(1, 12), max_size=4)), len(arguments)})
        pieces = [arguments[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        steps.append(ToolCallChunk(index, f"call-{index}", draw(st.sampled_from(["postage", "absent"]))))
        steps += [ArgumentsChunk(index, piece) for piece in pieces if piece]
    first, *_, end = answer()
    return [first, *(each for step in steps for each in (asyncio.Event(), step)), end]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(script=calls(), cuts=st.lists(st.integers(1, 6), max_size=12), data=st.data())
async def test_the_same_holds_for_calls_of_tools_and_their_arguments(
    tmp_path_factory: pytest.TempPathFactory, script: list[Step], cuts: list[int], data: st.DataObject
) -> None:
    waiting = [step for step in script if isinstance(step, asyncio.Event)]
    model, folder = ScriptedModel(script, answer("So it is.")), tmp_path_factory.mktemp("law")
    toolbox = PostOffice().toolbox()
    async with open_services(settings_for(folder), model=model, tokens=WordCounter(), toolbox=toolbox) as running:
        talk = Talk(running, model)
        sent = await talk.send(settings=GenerationSettings(tools=("postage",)))
        screen, forgetful = await read_in_cuts(talk, sent.reply_id, waiting, cuts, data, cycle([True]), lazy=True)
        stored = await talk.message(sent.reply_id)
    assert screen.ended
    assert screen.parts == forgetful.parts == list(stored.parts)


def pushing(screen: Screen, taken: Iterator[bool | None]) -> Push:
    def push(streamed: StreamedEvent) -> bool:
        takes = next(taken)
        if takes is None:
            raise RuntimeError
        if takes:
            screen.apply(streamed)
        return takes

    return push


async def read_in_cuts(
    talk: Talk,
    reply_id: str,
    gates: list[asyncio.Event],
    cuts: list[int],
    data: st.DataObject,
    taken: Iterator[bool | None],
    *,
    lazy: bool,
) -> tuple[Screen, Screen]:
    """What a reader has who was cut off so often while the writer went on by gates, and one who came at the end."""
    screen, forgetful, waiting = Screen(), Screen(), list(gates)
    for cut in cuts:
        for _ in range(min(len(waiting), data.draw(st.integers(0, 3)))):
            waiting.pop(0).set()
        await read_some(talk, reply_id, screen, cut, pushing(screen, taken), lazy=lazy)
    for gate in waiting:
        gate.set()
    screen_after(await talk.watch(reply_id, screen.cursor), screen)
    screen_after(await talk.watch(reply_id), forgetful)
    return screen, forgetful


async def read_some(talk: Talk, reply_id: str, screen: Screen, events: int, push: Push, *, lazy: bool) -> None:
    """Read at most so many events and what is pushed meanwhile, without waiting for the writer; then hang up."""
    stream = await talk.running.services.stream.follow(ME, reply_id, screen.cursor, push)
    for _ in range(events):
        try:
            async with asyncio.timeout(0.02 if lazy else 0.06):
                screen.apply(await anext(stream))
        except (TimeoutError, StopAsyncIteration):
            break
    await stream.aclose()


async def test_text_is_pushed_to_a_reader_who_waits_and_the_rest_is_for_the_generator(
    talk: Talk, model: ScriptedModel
) -> None:
    gates = [asyncio.Event() for _ in range(4)]
    model.play(gated("0", *(step for number, gate in enumerate(gates, 1) for step in (gate, str(number)))))
    sent = await talk.send()
    pushed, asked, waiting = Screen(), [], list(gates)
    pushed.parts = [MessagePart(0, PartKind.TEXT)]

    def push(streamed: StreamedEvent) -> bool:
        pushed.apply(streamed)
        waiting.pop(0).set()
        return True

    async for streamed in await talk.running.services.stream.follow(ME, sent.reply_id, None, push):
        asked.append(streamed.event)
        first = isinstance(streamed.event, Snapshot) and bool(streamed.event.message.parts)
        if waiting and (first or isinstance(streamed.event, TextDelta)):
            waiting.pop(0).set()
    assert pushed.text == "123"
    assert asked[-2] == TextDelta(0, "4")  # committed together with the end
    assert isinstance(asked[-1], Ended)


async def test_every_cut_point_of_a_finished_log_can_be_resumed_from(talk: Talk, model: ScriptedModel) -> None:
    model.play(answer(*(f"{n} \N{GRINNING FACE}\r\n" for n in range(40))))
    reply = await talk.say()
    async with talk.running.storage.read() as work:
        log: list[LoggedEvent] = await work.log.after(reply.id, 0, 1_000)
    folder = Folder()
    for logged in log:
        folder.add(logged)
        screen = Screen()
        screen.parts = list(folder.parts())
        screen_after(await talk.watch(reply.id, cursor_at(reply.id, logged.seq)), screen)
        assert screen.parts == list(reply.parts)
        assert screen.ended
