"""The contract of Messages, on every database: a tree, its paths, and replies that are still being made."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.conversations import Conversation, GenerationSettings, Message, MessagePart, Page, PageRequest, PartKind
from domain.errors import InvalidInput
from domain.events import PartAdded, TextDelta, fold
from domain.prompting import MESSAGE_OVERHEAD, Budget, fit
from domain.replies import ReplyStatus
from tests.contracts.storing import ANSWER, BEGINNING, DONE, ME, Pen, Shelf, a_message, ids, law

trees = st.lists(st.integers(-1, 8), min_size=1, max_size=9).map(
    lambda picks: [min(p, n - 1) for n, p in enumerate(picks)]
)
"""Trees as lists: the parent's place for each message, -1 for a root."""


async def grown(shelf: Shelf, parents: Sequence[int]) -> tuple[Conversation, list[Message]]:
    conversation = await shelf.conversation()
    made: list[Message] = []
    for parent in parents:
        made.append(await shelf.message(conversation.id, made[parent].id if parent >= 0 else None))
    return conversation, made


def way(made: Sequence[Message], leaf: Message) -> list[Message]:
    """The path as a model: from the root to the leaf."""
    by_id = {message.id: message for message in made}
    path = [leaf]
    while (parent_id := path[0].parent_id) is not None:
        path.insert(0, by_id[parent_id])
    return path


async def path(shelf: Shelf, conversation_id: str, leaf_id: str, request: PageRequest) -> Page[Message]:
    async with shelf.storage.read() as work:
        return await work.messages.path(conversation_id, leaf_id, request)


async def everything(shelf: Shelf, conversation_id: str, request: PageRequest) -> Page[Message]:
    async with shelf.storage.read() as work:
        return await work.messages.all(conversation_id, request)


async def newest(shelf: Shelf, message_id: str, budget: int, overhead: int = MESSAGE_OVERHEAD) -> list[Message]:
    async with shelf.storage.read() as work:
        return await work.messages.newest(message_id, budget, overhead)


async def get_many(shelf: Shelf, *message_ids: str, user_id: str = ME) -> dict[str, Message]:
    async with shelf.storage.read() as work:
        return await work.messages.get_many(user_id, message_ids)


def window(whole: Sequence[Message], data: st.DataObject) -> tuple[PageRequest, tuple[list[str], bool, bool]]:
    """A request drawn at random, and what a page of `whole` must be for it."""
    place = st.none() | st.integers(0, len(whole) - 1)
    after = data.draw(place)
    before = data.draw(place) if after is None else None
    size, forward = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    inside = ids(whole[0 if after is None else after + 1 : len(whole) if before is None else before])
    cursors = [None if cursor is None else whole[cursor].id for cursor in (after, before)]
    more = len(inside) > size
    if forward:
        request = PageRequest(first=size, after=cursors[0], before=cursors[1])
        return request, (inside[:size], more or before is not None, after is not None)
    request = PageRequest(last=size, after=cursors[0], before=cursors[1])
    return request, (inside[-size:], before is not None, more or after is not None)


# ── one message ──


async def test_a_message_comes_back_as_it_was_stored(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    parts = (
        MessagePart(0, PartKind.REASONING, "Hm…", duration_ms=250),
        MessagePart(1, PartKind.TEXT, "芝士 🧀 \\ \u2028"),
    )
    stored = await shelf.message(
        conversation.id, parts=parts, metadata={"a": [None, {"b": "ü"}]}, idempotency_key="k", token_count=9
    )
    assert await get_many(shelf, stored.id) == {stored.id: stored}


async def test_a_whole_history_is_added_at_once_parents_before_children(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    history = [a_message(conversation.id)]
    for _ in range(20):
        history.append(a_message(conversation.id, history[-1].id))
    async with shelf.storage.write() as work:
        await work.messages.add(*history)
        await work.commit()
    assert ids((await path(shelf, conversation.id, history[-1].id, PageRequest(first=50))).items) == ids(history)


async def test_a_message_may_have_a_megabyte_of_text(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    stored = await shelf.message(conversation.id, parts=(MessagePart(0, PartKind.TEXT, "Käse " * 200_000),))
    assert (await shelf.found(stored.id)).text == stored.text


async def test_only_the_users_visible_messages_are_found(shelf: Shelf) -> None:
    mine, deleted = await shelf.conversation(), await shelf.conversation()
    foreign = await shelf.conversation(user_id=await shelf.user())
    here, gone, other = [await shelf.message(c.id) for c in (mine, deleted, foreign)]
    async with shelf.storage.write() as work:
        await work.conversations.delete(deleted.id, BEGINNING)
        await work.commit()
    asked = [here.id, gone.id, other.id, "msg_absent", "msg_\0", "msg_\ud800"]
    assert list(await get_many(shelf, *asked)) == [here.id]


async def test_whoever_watches_sees_a_message_of_a_deleted_conversation(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    stored = await shelf.message(conversation.id)
    async with shelf.storage.write() as work:
        await work.conversations.delete(conversation.id, BEGINNING)
        await work.commit()
    assert await shelf.found(stored.id) == stored


async def test_asking_for_nothing_finds_nothing(shelf: Shelf) -> None:
    assert await get_many(shelf) == {}


# ── walks along the tree ──


@law
@given(parents=trees, data=st.data())
async def test_a_page_of_a_path_is_a_window_of_the_way_from_the_root(
    shelf: Shelf, parents: list[int], data: st.DataObject
) -> None:
    conversation, made = await grown(shelf, parents)
    leaf = data.draw(st.sampled_from(made))
    request, expected = window(way(made, leaf), data)
    page = await path(shelf, conversation.id, leaf.id, request)
    assert (ids(page.items), page.has_next, page.has_previous) == expected


@law
@given(parents=trees, data=st.data())
async def test_a_page_of_all_messages_is_a_window_of_them_in_the_order_of_ids(
    shelf: Shelf, parents: list[int], data: st.DataObject
) -> None:
    conversation, made = await grown(shelf, parents)
    request, expected = window(made, data)
    page = await everything(shelf, conversation.id, request)
    assert (ids(page.items), page.has_next, page.has_previous) == expected


@law
@given(parents=trees)
async def test_children_are_those_under_each_parent_oldest_first(shelf: Shelf, parents: list[int]) -> None:
    conversation, made = await grown(shelf, parents)
    keys = [(conversation.id, parent) for parent in [None, *ids(made)]]
    async with shelf.storage.read() as work:
        found = await work.messages.children(keys)
    assert found == {(c, parent): [m.id for m in made if m.parent_id == parent] for c, parent in keys}


async def test_children_of_another_conversation_are_not_given_away(shelf: Shelf) -> None:
    mine, (_, theirs) = await shelf.conversation(), await grown(shelf, [-1, 0])
    async with shelf.storage.read() as work:
        found = await work.messages.children([(mine.id, theirs[0].id), (mine.id, None)])
    assert found == {(mine.id, theirs[0].id): [], (mine.id, None): []}


async def test_a_leaf_of_another_conversation_has_no_path_here(shelf: Shelf) -> None:
    mine, (_, theirs) = await shelf.conversation(), await grown(shelf, [-1, 0])
    assert await path(shelf, mine.id, theirs[1].id, PageRequest(last=5)) == Page((), False, False)


@pytest.mark.parametrize("argument", ["after", "before"])
@pytest.mark.parametrize("direction", ["first", "last"])
async def test_a_cursor_from_elsewhere_is_invalid_input(shelf: Shelf, direction: str, argument: str) -> None:
    conversation, (_root, leaf, branch) = await grown(shelf, [-1, 0, 0])
    _, (foreign, *_) = await grown(shelf, [-1])
    for cursor in (foreign.id, "msg_absent", "", "\0", "\ud800", "x" * 10_000):
        request = PageRequest(**{direction: 1, argument: cursor})  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await path(shelf, conversation.id, leaf.id, request)
        with pytest.raises(InvalidInput):
            await everything(shelf, conversation.id, request)
    with pytest.raises(InvalidInput):
        await path(shelf, conversation.id, leaf.id, PageRequest(**{direction: 1, argument: branch.id}))  # type: ignore[arg-type]


async def test_the_last_messages_of_a_long_path_are_those_before_its_leaf(shelf: Shelf) -> None:
    conversation, made = await grown(shelf, range(-1, 59))
    page = await path(shelf, conversation.id, made[-1].id, PageRequest(last=3))
    assert (ids(page.items), page.has_previous) == (ids(made[-3:]), True)


# ── what a prompt is made from ──


@law
@given(
    costs=st.lists(st.sampled_from([0, 0, 1, 3]), max_size=8),
    nearest=st.integers(1, 3),
    budget=st.integers(0, 40),
)
@example(costs=[1, 0, 0], nearest=1, budget=10)
@example(costs=[1, 1], nearest=100, budget=10)
async def test_the_newest_messages_make_the_same_prompt_as_the_whole_path(
    shelf: Shelf, costs: list[int], nearest: int, budget: int
) -> None:
    conversation, parent_id = await shelf.conversation(), None
    whole: list[Message] = []
    for cost in [*costs, nearest]:
        parts = (MessagePart(0, PartKind.TEXT, f"{len(whole)}"),) if cost else ()
        whole.append(await shelf.message(conversation.id, parent_id, token_count=cost, parts=parts))
        parent_id = whole[-1].id
    reply_id = await shelf.queued(conversation.id, parent_id)
    found = await newest(shelf, reply_id, budget)
    assert ids(found) == ids(whole[-len(found) :])
    settings, allowed = GenerationSettings(), Budget(budget, 0, budget)
    assert fit(found, settings, allowed).messages == fit(whole, settings, allowed).messages


async def test_the_newest_message_stays_even_when_it_is_too_large(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    first = await shelf.message(conversation.id, token_count=1)
    second = await shelf.message(conversation.id, first.id, token_count=1_000)
    reply_id = await shelf.queued(conversation.id, second.id)
    assert ids(await newest(shelf, reply_id, 10)) == [second.id]


async def test_a_budget_without_bound_brings_the_whole_path(shelf: Shelf) -> None:
    _, made = await grown(shelf, range(-1, 30))
    assert ids(await newest(shelf, made[-1].id, 2**31)) == ids(made[:-1])


async def test_a_path_is_in_the_order_of_the_tree_when_clocks_disagree_about_ids(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    late, early = a_message(conversation.id), a_message(conversation.id)
    root = await shelf.message(conversation.id, id=early.id, token_count=0)
    leaf = await shelf.message(conversation.id, root.id, id=late.id, token_count=0)
    below = await shelf.message(conversation.id, leaf.id)
    assert ids(await newest(shelf, below.id, 100)) == [root.id, leaf.id]


async def test_above_a_root_there_is_nothing(shelf: Shelf) -> None:
    _, (root,) = await grown(shelf, [-1])
    assert await newest(shelf, root.id, 100) == []


# ── replies that are being made ──


async def test_a_live_reply_shows_what_its_log_adds_up_to(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(*ANSWER))
    found = await shelf.found(pen.id)
    assert found.parts == (MessagePart(0, PartKind.TEXT, "Good morning"),)
    assert found.cursor == pen.written[-1].seq


async def test_a_settled_reply_shows_its_final_parts_and_the_number_of_its_last_event(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    entry = pen.entry(*ANSWER, outcome=DONE)
    parts = tuple(replace(part, duration_ms=9) for part in entry.parts)
    await shelf.flush(replace(entry, parts=parts))
    found = await shelf.found(pen.id)
    assert (found.parts, found.cursor) == (parts, entry.events[-1].seq)


async def test_a_queued_reply_is_empty_and_its_cursor_is_the_beginning(shelf: Shelf) -> None:
    found = await shelf.found(await shelf.queued())
    assert (found.parts, found.cursor) == ((), 0)


async def test_a_message_without_a_reply_has_no_cursor(shelf: Shelf) -> None:
    _, (message,) = await grown(shelf, [-1])
    assert (await shelf.found(message.id)).cursor is None


async def test_parts_status_and_cursor_never_disagree_while_a_reply_is_written(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    began = pen.entry(PartAdded(0, PartKind.TEXT))
    entries = [began, *(pen.entry(TextDelta(0, f"{n} ")) for n in range(15)), pen.entry(outcome=DONE)]

    async def write() -> None:
        for entry in entries:
            await shelf.flush(entry)

    writing = asyncio.create_task(write())
    seen: list[Message] = []
    while not (seen and seen[-1].reply and seen[-1].reply.status.settled):
        seen.append(await shelf.found(pen.id))
    await writing
    for message in seen:
        assert message.parts == fold(logged for logged in pen.written if logged.seq <= (message.cursor or 0))
        assert message.reply is not None
        assert (message.reply.status is ReplyStatus.COMPLETE) == (message.cursor == pen.written[-1].seq)


async def test_a_page_shows_each_reply_with_its_own_log(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    pens: list[Pen] = []
    for n in range(3):
        pens.append(await shelf.streaming(conversation.id))
        await shelf.flush(pens[-1].entry(PartAdded(0, PartKind.TEXT), TextDelta(0, f"number {n}")))
    await shelf.flush(pens[1].entry(outcome=DONE))
    page = await everything(shelf, conversation.id, PageRequest(first=10))
    assert [message.text for message in page.items] == ["number 0", "number 1", "number 2"]
    assert [message.cursor for message in page.items] == [pen.written[-1].seq for pen in pens]


async def test_a_reply_comes_with_its_settings_usage_and_times(shelf: Shelf) -> None:
    pen = await shelf.streaming(instruction="Shorter.")
    shelf.clock.later(5)
    await shelf.flush(pen.entry(*ANSWER, outcome=replace(DONE, first_token_at=BEGINNING + timedelta(seconds=1))))
    reply = await shelf.made(pen.id)
    assert (reply.settings, reply.instruction) == (pen.lease.settings, "Shorter.")
    assert reply.usage == DONE.usage
    times = (reply.queued_at, reply.started_at, reply.first_token_at, reply.finished_at)
    assert times == tuple(BEGINNING + timedelta(seconds=s) for s in (0, 0, 1, 5))
