"""The contract of Conversations, on every database."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from domain.conversations import Conversation, GenerationSettings, ModelParams, Page, PageRequest, TitleSource
from domain.errors import InvalidInput, StorageError
from domain.tool_calls import ToolChoice
from persistence.tables import messages, metadata
from tests.contracts.storing import BEGINNING, ME, Shelf, a_conversation, ids, law, new_id

OWNED = ("conversations", "messages", "replies", "reply_attempts", "reply_events")
UNSTORABLE = ["conv_\0", "conv_\ud800", "", "c" * 10_000, "conv_' OR 1=1 --"]


async def get(shelf: Shelf, conversation_id: str, user_id: str = ME) -> Conversation | None:
    async with shelf.storage.read() as work:
        return await work.conversations.get(user_id, conversation_id)


async def page(shelf: Shelf, request: PageRequest, user_id: str = ME) -> Page[Conversation]:
    async with shelf.storage.read() as work:
        return await work.conversations.page(user_id, request)


async def count(shelf: Shelf, user_id: str = ME) -> int:
    async with shelf.storage.read() as work:
        return await work.conversations.count(user_id)


async def delete(shelf: Shelf, conversation_id: str, at: datetime = BEGINNING) -> None:
    async with shelf.storage.write() as work:
        await work.conversations.delete(conversation_id, at)
        await work.commit()


async def purge(shelf: Shelf, before: datetime) -> int:
    async with shelf.storage.write() as work:
        purged = await work.conversations.purge(before)
        await work.commit()
    return purged


async def test_a_conversation_comes_back_as_it_was_stored(shelf: Shelf) -> None:
    params = ModelParams(temperature=0.25, top_p=0.5, max_tokens=100, stop=("\n\n", "ENDE"), seed=2**40)
    stored = await shelf.conversation(
        title="Käse, 芝士, 🧀 and a \\ backslash",
        title_source=TitleSource.FIRST_WORDS,
        settings=GenerationSettings("scripted", "Be\nkind.", params),
        metadata={"nested": [{"a": None, "b": 1.5, "c": "ü\u2028"}], "big": 2**53, "yes": True},
        updated_at=BEGINNING + timedelta(microseconds=1),
    )
    assert await get(shelf, stored.id) == stored


@pytest.mark.parametrize("tools", [None, (), ("mail", "add_task")])
async def test_tools_in_settings_come_back_and_none_is_not_the_same_as_nothing_said(
    shelf: Shelf, tools: tuple[str, ...] | None
) -> None:
    settings = GenerationSettings(tools=tools, tool_choice=ToolChoice.REQUIRED if tools else None)
    stored = await shelf.conversation(settings=settings)
    found = await get(shelf, stored.id)
    assert found is not None
    assert found.settings == settings


async def test_an_empty_setting_comes_back_as_nothing_said(shelf: Shelf) -> None:
    stored = await shelf.conversation(settings=GenerationSettings())
    found = await get(shelf, stored.id)
    assert found is not None
    assert found.settings == GenerationSettings()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_number_that_is_no_json_is_a_storage_error(shelf: Shelf, number: float) -> None:
    with pytest.raises(StorageError):
        await shelf.conversation(metadata={"number": number})


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11)), None])
async def test_an_instant_keeps_its_moment_whatever_its_zone(shelf: Shelf, zone: timezone | None) -> None:
    local = BEGINNING.replace(tzinfo=None) if zone is None else BEGINNING.astimezone(zone)
    stored = await shelf.conversation(created_at=local)
    found = await get(shelf, stored.id)
    assert found is not None
    assert (found.created_at, found.created_at.utcoffset()) == (BEGINNING, timedelta(0))


async def test_absent_deleted_and_foreign_conversations_are_none(shelf: Shelf) -> None:
    deleted, foreign = await shelf.conversation(), await shelf.conversation(user_id=await shelf.user())
    await delete(shelf, deleted.id)
    assert [await get(shelf, some) for some in ("conv_absent", deleted.id, foreign.id)] == [None, None, None]


@pytest.mark.parametrize("conversation_id", UNSTORABLE)
async def test_any_text_may_be_asked_for_as_an_id(shelf: Shelf, conversation_id: str) -> None:
    assert await get(shelf, conversation_id) is None


async def test_an_update_stores_what_may_change_and_nothing_else(shelf: Shelf) -> None:
    stored = await shelf.conversation(metadata={"kept": 1})
    changed = replace(
        stored,
        title="Evenings",
        title_source=TitleSource.FIRST_WORDS,
        settings=GenerationSettings("other"),
        leaf_id="msg_1",
        updated_at=BEGINNING + timedelta(hours=1),
        last_activity_at=BEGINNING + timedelta(hours=2),
    )
    async with shelf.storage.write() as work:
        await work.conversations.update(replace(changed, metadata={}, created_at=BEGINNING + timedelta(days=1)))
        await work.commit()
    assert await get(shelf, stored.id) == changed


async def test_only_visible_conversations_count(shelf: Shelf) -> None:
    await shelf.conversation(user_id=await shelf.user())
    deleted = await shelf.conversation()
    await shelf.conversation()
    await delete(shelf, deleted.id)
    assert await count(shelf) == 1
    assert len((await page(shelf, PageRequest(first=10))).items) == 1


# ── pages ──


@law
@given(
    moments=st.lists(st.integers(0, 3), max_size=9),
    size=st.integers(1, 4),
    forward=st.booleans(),
    data=st.data(),
)
async def test_a_page_is_a_window_of_the_list_newest_activity_first(
    shelf: Shelf, moments: list[int], size: int, forward: bool, data: st.DataObject
) -> None:
    user_id = await shelf.user()
    made = [
        await shelf.conversation(user_id=user_id, last_activity_at=BEGINNING + timedelta(microseconds=moment))
        for moment in moments
    ]
    whole = sorted(made, key=lambda c: (c.last_activity_at, c.id), reverse=True)
    place = st.none() | st.integers(0, len(whole) - 1) if whole else st.none()
    after = data.draw(place)
    before = data.draw(place) if after is None else None
    window = whole[0 if after is None else after + 1 : len(whole) if before is None else before]
    bounds = {
        "after": None if after is None else whole[after].cursor,
        "before": None if before is None else whole[before].cursor,
    }
    request = PageRequest(**({"first": size} if forward else {"last": size}), **bounds)  # type: ignore[arg-type]
    found = await page(shelf, request, user_id)
    assert ids(found.items) == ids(window[:size] if forward else window[-size:])
    more = len(window) > size
    assert found.has_next == ((forward and more) or before is not None)
    assert found.has_previous == ((not forward and more) or after is not None)


async def test_leafing_through_meets_everything_once_even_when_instants_are_equal(shelf: Shelf) -> None:
    made = [await shelf.conversation() for _ in range(7)]
    seen: list[str] = []
    request = PageRequest(first=3)
    while (found := await page(shelf, request)).items:
        seen += ids(found.items)
        request = PageRequest(first=3, after=found.items[-1].cursor)
    assert seen == ids(made)[::-1]


async def test_a_cursor_holds_its_place_when_its_conversation_is_gone(shelf: Shelf) -> None:
    oldest, middle, _newest = [await shelf.conversation() for _ in range(3)]
    await delete(shelf, middle.id)
    assert ids((await page(shelf, PageRequest(first=5, after=middle.cursor))).items) == [oldest.id]


@pytest.mark.parametrize("cursor", ["", "x", "|", "tomorrow|conv_1", "9999-12-31T23:59:59-23:59|conv_1", "\0|\0"])
async def test_a_malformed_cursor_is_invalid_input(shelf: Shelf, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await page(shelf, PageRequest(first=1, after=cursor))


@pytest.mark.parametrize("tail", UNSTORABLE)
async def test_a_cursor_may_name_any_text_as_its_id(shelf: Shelf, tail: str) -> None:
    assert (await page(shelf, PageRequest(first=1, after=f"{BEGINNING.isoformat()}|{tail}"))).items == ()


# ── deleting for good ──


async def test_a_purge_removes_what_was_deleted_before_with_all_it_owns(shelf: Shelf) -> None:
    early, late, kept = [await shelf.conversation() for _ in range(3)]
    for conversation in (early, late, kept):
        parent = await shelf.message(conversation.id)
        await shelf.settled(conversation_id=conversation.id, parent_id=parent.id)
    await delete(shelf, early.id, BEGINNING)
    await delete(shelf, late.id, BEGINNING + timedelta(days=1))
    assert await purge(shelf, BEGINNING + timedelta(hours=1)) == 1
    owned = [metadata.tables[name] for name in OWNED]
    async with shelf.database.connect(writing=False) as connection:
        left = [(await connection.execute(select(func.count()).select_from(table))).scalar_one() for table in owned]
    assert left == [2, 4, 2, 2, 10]


async def test_a_conversation_of_any_length_can_be_purged(shelf: Shelf) -> None:
    """SQLite follows cascades from parent to child only to a depth of 1,000."""
    conversation = await shelf.conversation()
    chain = [new_id("msg") for _ in range(1_100)]
    row = {"conversation_id": conversation.id, "role": "USER", "created_at": BEGINNING}
    row |= {"parts": [], "token_count": 0, "metadata": {}}
    rows = [row | {"id": own, "parent_id": above} for own, above in zip(chain, [None, *chain], strict=False)]
    async with shelf.database.connect(writing=True) as connection:
        await connection.execute(insert(messages), rows)
        await connection.commit()
    await delete(shelf, conversation.id)
    assert await purge(shelf, datetime.now(UTC)) == 1


async def test_a_purge_of_very_many_goes_on_in_the_next_round(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        for _ in range(201):
            await work.conversations.add(gone := a_conversation())
            await work.conversations.delete(gone.id, BEGINNING)
        await work.commit()
    assert [await purge(shelf, datetime.now(UTC)) for _ in range(3)] == [200, 1, 0]


async def test_of_several_purges_at_once_each_conversation_is_counted_by_one(shelf: Shelf) -> None:
    for _ in range(5):
        await delete(shelf, (await shelf.conversation()).id)
    assert sum(await asyncio.gather(*(purge(shelf, datetime.now(UTC)) for _ in range(4)))) == 5


async def test_a_held_conversation_is_changed_by_one_unit_at_a_time(shelf: Shelf) -> None:
    stored = await shelf.conversation(title="0")

    async def count_up() -> None:
        async with shelf.storage.write() as work:
            held = await work.conversations.get(ME, stored.id, lock=True)
            assert held is not None
            await work.conversations.update(replace(held, title=str(int(held.title) + 1)))
            await work.commit()

    await asyncio.gather(*(count_up() for _ in range(8)))
    found = await get(shelf, stored.id)
    assert found is not None
    assert found.title == "8"


async def test_holding_a_conversation_does_not_keep_readers_out(shelf: Shelf) -> None:
    stored = await shelf.conversation()
    async with shelf.storage.write() as work:
        await work.conversations.get(ME, stored.id, lock=True)
        assert await get(shelf, stored.id) == stored
