"""How many statements the busiest units send. A number that grows with the amount of data is a mistake."""

from dataclasses import replace
from datetime import timedelta

from domain.conversations import Change, PageRequest, Role
from domain.events import LoggedEvent, StatusChanged
from domain.feed import Reader
from domain.replies import ReplyStatus
from domain.storage import Turn, UnitOfWork
from domain.streaming import cursor_at
from domain.tool_calls import ToolCallStatus
from tests.contracts.storing import (
    ANSWER,
    BEGINNING,
    DONE,
    ME,
    OWNER,
    Pen,
    Shelf,
    a_call,
    a_conversation,
    a_message,
    a_reply,
)
from tests.persistence.statements import sent_statements

LATER = BEGINNING + timedelta(days=1)


async def test_a_page_of_conversations_is_one_statement(shelf: Shelf) -> None:
    for _ in range(5):
        await shelf.conversation()
    async with shelf.storage.read() as work:
        with sent_statements() as sent:
            await work.conversations.page(ME, PageRequest(first=3))
    assert len(sent) == 1


async def talk(shelf: Shelf, turns: int) -> tuple[str, str]:
    """A conversation with its leaf; every turn has a settled reply."""
    conversation_id, leaf_id = (await shelf.conversation()).id, None
    for _ in range(turns):
        said = await shelf.message(conversation_id, leaf_id)
        leaf_id = (await shelf.settled(conversation_id=conversation_id, parent_id=said.id)).id
    assert leaf_id is not None
    return conversation_id, leaf_id


async def statements_of_a_path(shelf: Shelf, turns: int, *, live: bool) -> int:
    conversation_id, leaf_id = await talk(shelf, turns)
    if live:
        pen = await shelf.streaming(conversation_id, parent_id=leaf_id)
        await shelf.flush(pen.entry(*ANSWER))
        leaf_id = pen.id
    async with shelf.storage.read() as work:
        with sent_statements() as sent:
            page = await work.messages.path(conversation_id, leaf_id, PageRequest(last=50))
    assert len(page.items) == 2 * turns + live
    return len(sent)


async def test_a_page_of_messages_is_one_statement_also_with_live_replies(shelf: Shelf) -> None:
    for live in (False, True):
        assert [await statements_of_a_path(shelf, turns, live=live) for turns in (1, 5)] == [1, 1]


async def test_a_prompt_is_one_statement(shelf: Shelf) -> None:
    _, leaf_id = await talk(shelf, 3)
    async with shelf.storage.read() as work:
        with sent_statements() as sent:
            await work.messages.newest(leaf_id, 10_000, 4)
    assert len(sent) == 1


def telling(shelf: Shelf, users: int = 1) -> int:
    """What it costs a unit that it changed something that so many users are told of."""
    return 1 if users == 1 and not shelf.database.is_sqlite else 2


TOLD_LAST = 2
"""What it costs where other statements went before; on PostgreSQL the second one goes out with the COMMIT."""


async def test_a_turn_and_the_telling_of_it_are_one_statement_and_on_sqlite_one_for_each_row(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    said = a_message(conversation.id)
    answer = a_message(conversation.id, said.id, role=Role.ASSISTANT, parts=())
    turn = Turn(conversation, said, replace(answer, reply=a_reply(answer)))
    async with shelf.storage.write() as work:
        with sent_statements() as sent:
            work.feed.add(ME, Change.MESSAGE_ADDED, conversation.id, said.id)
            await work.turns.add(turn)
            await work.commit()
    assert len(sent) == (4 + telling(shelf) if shelf.database.is_sqlite else 1)


async def test_a_turn_whose_reply_is_claimed_as_it_is_stored_costs_no_statement_more_but_for_its_first_row(
    shelf: Shelf,
) -> None:
    await shelf.beat()
    conversation = a_conversation()
    said = a_message(conversation.id)
    answer = a_message(conversation.id, said.id, role=Role.ASSISTANT, parts=())
    reply = a_reply(answer, status=ReplyStatus.STREAMING, attempt=1)
    async with shelf.storage.write() as work:
        with sent_statements() as sent:
            work.feed.add(ME, Change.MESSAGE_ADDED, conversation.id, said.id)
            await work.turns.add(Turn(conversation, said, replace(answer, reply=reply), begins=True), 0, OWNER)
            await work.commit()
    assert len(sent) == (5 + telling(shelf) if shelf.database.is_sqlite else 1)
    assert await shelf.log(reply.id) == [LoggedEvent(1, 1, StatusChanged(ReplyStatus.STREAMING))]


async def test_users_are_told_last_of_a_turn_that_has_a_key(shelf: Shelf) -> None:
    conversation = await shelf.conversation()
    said = a_message(conversation.id)
    answer = a_message(conversation.id, said.id, role=Role.ASSISTANT, parts=())
    async with shelf.storage.write() as work:
        with sent_statements() as sent:
            await work.keys.reserve(ME, "sendMessage", "key", "print")
            work.feed.add(ME, Change.MESSAGE_ADDED, conversation.id, said.id)
            await work.turns.add(Turn(conversation, said, replace(answer, reply=a_reply(answer))))
            await work.keys.keep(ME, "sendMessage", "key", {"message_id": said.id})
            await work.commit()
    assert "UPDATE users" in sent[-1][0]
    async with shelf.storage.read() as work:
        assert len((await work.feed.after(ME, 0, 10))[1]) == 1


async def test_a_claim_is_two_statements_and_on_sqlite_three_however_many_it_takes(shelf: Shelf) -> None:
    """One more is the heartbeat."""
    await shelf.beat()
    for many in (1, 20):
        for _ in range(many):
            await shelf.queued()
        with sent_statements() as sent:
            assert len(await shelf.claim()) == many
        assert len(sent) == (3 if shelf.database.is_sqlite else 2) + 1 + TOLD_LAST


async def test_an_idle_worker_sends_one_statement_for_each_question_and_two_for_orphans(shelf: Shelf) -> None:
    async def statements(ask: str) -> int:
        async with shelf.storage.write() as work:
            with sent_statements() as sent:
                await _idle(work, ask)
        return len(sent)

    await shelf.settled()
    async with shelf.storage.write() as work:
        await work.log.sweep(shelf.clock.later())
        await work.commit()
    questions = (
        "claimable",
        "claim",
        "held",
        "beat",
        "sweep",
        "purge",
        "users",
        "rates",
        "keys",
        "feed",
        "expired",
        "orphans",
    )
    assert [await statements(ask) for ask in questions] == [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]


async def _idle(work: UnitOfWork, ask: str) -> None:
    match ask:
        case "claimable":
            await work.replies.claimable()
        case "claim":
            await work.replies.claim("work_1", 50)
        case "orphans":
            await work.workers.orphans(10, 50)
        case "held":
            await work.replies.held("work_1")
        case "beat":
            await work.workers.beat("work_1")
        case "sweep":
            await work.log.sweep(LATER)
        case "purge":
            await work.conversations.purge(LATER)
        case "users":
            await work.users.purge()
        case "rates":
            await work.rates.sweep()
        case "keys":
            await work.keys.sweep(LATER)
        case "expired":
            await work.tool_calls.expired(50)
        case _:
            await work.feed.sweep(timedelta(hours=24))


def ending(shelf: Shelf) -> int:
    """What a flush costs in which replies end, and the telling of it."""
    return 6 + telling(shelf) if shelf.database.is_sqlite else 2


async def test_a_flush_is_one_statement_and_two_when_replies_end(shelf: Shelf) -> None:
    """On SQLite the leases are asked for beside it, and each table is written by itself."""
    flush = 2 if shelf.database.is_sqlite else 1
    for _ in range(100):
        await shelf.queued()
    pens = [Pen(lease) for lease in await shelf.claim()]
    with sent_statements() as sent:
        await shelf.flush(*(pen.entry(*ANSWER) for pen in pens))
    assert len(sent) == flush
    with sent_statements() as sent:
        await shelf.flush(*(pen.entry(outcome=DONE) for pen in pens))
    assert len(sent) == ending(shelf)


async def test_ends_of_replies_of_users_with_accounts_cost_a_flush_one_statement_more(shelf: Shelf) -> None:
    people = [await shelf.user() for _ in range(5)]
    for user_id in people * 2:
        await shelf.queued((await shelf.conversation(user_id=user_id)).id)
    pens = [Pen(lease) for lease in await shelf.claim()]
    with sent_statements() as sent:
        await shelf.flush(*(pen.entry(outcome=DONE) for pen in pens))
    several = telling(shelf, len(people)) - telling(shelf)
    assert len(sent) == ending(shelf) + 1 + several


async def test_ends_of_replies_with_calls_cost_a_flush_one_statement_more_and_another_to_cancel_some(
    shelf: Shelf,
) -> None:
    """Others pay nothing for it, as the test above pins."""
    for status, more in ((ToolCallStatus.SUCCEEDED, 1), (ToolCallStatus.RUNNING, 2)):
        pens = [await shelf.calling(a_call(status), a_call(status)) for _ in range(3)]
        with sent_statements() as sent:
            await shelf.flush(*(pen.entry(outcome=DONE) for pen in pens))
        assert len(sent) == ending(shelf) + more


async def test_calls_are_stored_by_two_statements_and_each_result_by_two(shelf: Shelf) -> None:
    for many in (1, 20):
        pen = await shelf.streaming()
        calls = [a_call(ToolCallStatus.RUNNING) for _ in range(many)]
        with sent_statements() as sent:
            assert await shelf.add_calls(pen.lease, *calls)
        assert len(sent) == 2
        with sent_statements() as sent:
            assert await shelf.finish(pen.lease, calls[0])
        assert len(sent) == 2


async def test_a_decision_is_five_statements_and_the_last_one_of_a_reply_one_more(shelf: Shelf) -> None:
    first, last = a_call(), a_call()
    await shelf.awaiting(first, last)
    with sent_statements() as sent:
        assert await shelf.decide(first.id)
    assert len(sent) == 5
    with sent_statements() as sent:
        assert await shelf.decide(last.id)
    assert len(sent) == 6 + TOLD_LAST


async def test_what_happened_costs_a_unit_the_same_however_much_it_is_and_nothing_when_it_is_nothing(
    shelf: Shelf,
) -> None:
    users = [ME, *[await shelf.user() for _ in range(5)]]
    for many, expected in ((0, 0), (1, telling(shelf)), (50, telling(shelf, len(users)))):
        async with shelf.storage.write() as work:
            for number in range(many):
                work.feed.add(users[number % len(users)], Change.CONVERSATION_UPDATED, f"conv_{number}")
            with sent_statements() as sent:
                await work.commit()
        assert len(sent) == expected


async def test_a_batch_of_events_is_at_most_three_statements_and_an_idle_look_one(shelf: Shelf) -> None:
    for turns in (1, 10):
        conversation_id, leaf_id = await talk(shelf, turns)
        pen = await shelf.streaming(conversation_id, parent_id=leaf_id)
        await shelf.flush(pen.entry(*ANSWER))
        async with shelf.storage.write() as work:
            for message_id in (leaf_id, pen.id):
                work.feed.add(ME, Change.MESSAGE_ADDED, conversation_id, message_id)
            await work.commit()
        reader = Reader(shelf.storage, shelf.clock, ME, None, cursor_at(ME, 0))
        with sent_statements() as sent:
            assert (await reader.more())[1]
        assert len(sent) == 3
        with sent_statements() as sent:
            assert await reader.more() == (False, [])
        assert len(sent) == 1
