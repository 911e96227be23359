"""What is read of a conversation does not grow with it, nor with the others: walks along its path take jumps.

Work is counted in instructions of SQLite's virtual machine, for the statements that the units really send.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from domain.conversations import Message, PageRequest, Role
from domain.storage import Turn, UnitOfWork
from persistence import schema
from persistence.tables import messages
from tests.contracts.storing import ME, Shelf, a_message, a_reply, add_reply, ids, law, only_sqlite
from tests.contracts.test_storage_messages import path, way, window
from tests.persistence.statements import Sent, sent_statements

SHORT, LONG = 100, 4_000
OVERHEAD, BUDGET = 4, 200
Unit = Callable[[UnitOfWork, str, Sequence[str]], Awaitable[object]]


def chain(conversation_id: str, parent_id: str | None, length: int) -> list[Message]:
    made: list[Message] = []
    for _ in range(length):
        made.append(a_message(conversation_id, made[-1].id if made else parent_id))
    return made


async def written(shelf: Shelf, *lengths: int) -> list[Message]:
    """A conversation, as pieces of a history that are stored one after another."""
    conversation = await shelf.conversation()
    made: list[Message] = []
    for length in lengths:
        await append(shelf, made, chain(conversation.id, made[-1].id if made else None, length))
    return made


async def append(shelf: Shelf, made: list[Message], added: list[Message]) -> None:
    async with shelf.storage.write() as work:
        if added:
            await work.messages.add(*added)
        await work.commit()
    made += added


async def forget_jumps(shelf: Shelf, message_ids: Sequence[str]) -> None:
    """As an older server stores messages."""
    async with shelf.database.connect(writing=True) as connection:
        theirs = update(messages).where(connection.among(messages.c.id, message_ids))
        await connection.execute(theirs.values(jump_id=None, jump_steps=None))
        await connection.commit()


async def jumps(shelf: Shelf) -> dict[str, tuple[str | None, int | None]]:
    async with shelf.database.connect(writing=False) as connection:
        query = select(messages.c.id, messages.c.jump_id, messages.c.jump_steps)
        return {row.id: (row.jump_id, row.jump_steps) for row in (await connection.execute(query)).all()}


@law
@given(above=st.integers(0, 69), gap=st.integers(0, 9), data=st.data())
async def test_a_page_of_a_long_path_is_a_window_of_it_also_where_an_older_server_added_some_of_it(
    shelf: Shelf, above: int, gap: int, data: st.DataObject
) -> None:
    made = await written(shelf, above, gap)
    await forget_jumps(shelf, ids(made[above:]))
    conversation_id = made[0].conversation_id if made else (await shelf.conversation()).id
    await append(shelf, made, chain(conversation_id, made[-1].id if made else None, 80 - above - gap))
    for leaf in (made[-1], data.draw(st.sampled_from(made))):
        request, expected = window(way(made, leaf), data)
        page = await path(shelf, conversation_id, leaf.id, request)
        assert (ids(page.items), page.has_next, page.has_previous) == expected


async def test_every_jump_leads_up_the_path_as_far_as_it_says(shelf: Shelf) -> None:
    made = ids(await written(shelf, 70, 1, 29))
    found = await jumps(shelf)
    assert found[made[0]] == (None, None)
    for place in range(1, 100):
        end, steps = found[made[place]]
        assert steps is not None
        assert end == made[place - steps]
    assert max(steps or 0 for _, steps in found.values()) == 63


async def test_an_upgrade_gives_all_messages_the_jumps_that_new_ones_have(shelf: Shelf) -> None:
    made = await written(shelf, 50)
    await append(shelf, made, chain(made[0].conversation_id, made[20].id, 50))
    await written(shelf, 3)
    before = await jumps(shelf)
    await schema.downgrade(shelf.database, "0004")
    await schema.upgrade(shelf.database)
    assert await jumps(shelf) == before


async def answered(shelf: Shelf, turns: int) -> list[str]:
    """The ids of a path of turns, each of a message and its answer, or every third time another answer below that."""
    conversation, path_ids = await shelf.conversation(), list[str]()
    for number in range(turns):
        said = None if number % 3 == 2 else a_message(conversation.id, path_ids[-1] if path_ids else None)
        answer = a_message(conversation.id, path_ids[-1] if said is None else said.id, role=Role.ASSISTANT)
        async with shelf.storage.write() as work:
            await work.turns.add(Turn(conversation, said, replace(answer, reply=a_reply(answer))))
            await work.commit()
        path_ids += [answer.id] if said is None else [said.id, answer.id]
    return path_ids


async def test_messages_of_turns_have_the_jumps_that_they_would_have_if_added_one_by_one(shelf: Shelf) -> None:
    of_turns = await answered(shelf, 60)
    one_by_one = ids(await written(shelf, *[1] * len(of_turns)))
    found = await jumps(shelf)

    def leaps(made: Sequence[str]) -> list[tuple[int | None, int | None]]:
        return [(made.index(end) if end else None, steps) for end, steps in (found[each] for each in made)]

    assert leaps(of_turns) == leaps(one_by_one)


# ── how much is done ──


def instructions(file: str, sent: Sequence[Sent]) -> int:
    """What SQLite takes for the statements, one after another, in a transaction that is rolled back."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")  # which waits for the rollback of the unit that was recorded
        connection.set_progress_handler(tick, 1)
        for statement, given_ in sent:
            run = connection.executemany if isinstance(given_, list) else connection.execute
            run(statement, given_).fetchall()
        connection.set_progress_handler(None, 1)
        connection.execute("ROLLBACK")
    finally:
        connection.close()
    return count


async def growth(shelf: Shelf, unit: Unit) -> float:
    """How much more a unit does in a conversation of LONG messages than in one of SHORT."""
    done = []
    for length in (SHORT, LONG):
        made = await written(shelf, length)
        async with shelf.storage.write() as work:
            with sent_statements() as sent:
                await unit(work, made[0].conversation_id, ids(made))
        done.append(instructions(str(shelf.database.file), sent))
    return done[1] / done[0]


@only_sqlite
async def test_a_page_of_a_long_conversation_is_as_much_work_as_one_of_a_short_one(shelf: Shelf) -> None:
    def page(request: Callable[[Sequence[str]], PageRequest]) -> Unit:
        return lambda work, conversation_id, path: work.messages.path(conversation_id, path[-1], request(path))

    requests: dict[str, Callable[[Sequence[str]], PageRequest]] = {
        "newest": lambda _: PageRequest(last=50),
        "oldest": lambda _: PageRequest(first=50),
        "above a cursor": lambda path: PageRequest(last=50, before=path[60]),
        "below a cursor": lambda path: PageRequest(first=50, after=path[20]),
    }
    grown = {name: await growth(shelf, page(request)) for name, request in requests.items()}
    assert {name: more for name, more in grown.items() if more > 1.3} == {}


@only_sqlite
async def test_a_send_into_a_long_conversation_is_as_much_work_as_into_a_short_one(shelf: Shelf) -> None:
    """With its reply's claim and prompt. The conversation is a history without replies, where nothing is quick."""

    async def send(work: UnitOfWork, conversation_id: str, path: Sequence[str]) -> None:
        await work.conversations.get(ME, conversation_id, lock=True)
        said = a_message(conversation_id, path[-1])
        await work.messages.add(said)
        await work.replies.unsettled_above(path[-1])
        reply_id = await add_reply(work, conversation_id, said.id)
        await work.messages.weight(path[-1], said.token_count, BUDGET, OVERHEAD)
        await work.workers.enter("work_1")
        assert await work.replies.claim("work_1", 50)
        assert 20 < len(await work.messages.newest(reply_id, BUDGET, OVERHEAD)) < 30

    assert await growth(shelf, send) <= 1.3


@only_sqlite
async def test_what_begins_a_conversation_and_what_is_being_made_in_it_is_found_without_reading_all_of_it(
    shelf: Shelf,
) -> None:
    async def look(work: UnitOfWork, conversation_id: str, path: Sequence[str]) -> None:
        assert await work.messages.children([(conversation_id, None)]) == {(conversation_id, None): [path[0]]}
        assert await work.replies.unsettled(conversation_id) == []

    assert await growth(shelf, look) <= 1.3


@only_sqlite
async def test_messages_are_found_without_reading_all_that_their_user_has(shelf: Shelf) -> None:
    """A join with conversations would make SQLite begin with all of theirs."""
    found = [message.id for message in [*await written(shelf, 20), *await written(shelf, 20)]]

    async def work_of_finding() -> int:
        async with shelf.storage.read() as work:
            with sent_statements() as sent:
                assert len(await work.messages.get_many(ME, found)) == 40
                await work.conversations.page(ME, PageRequest(first=1))
        return instructions(str(shelf.database.file), sent)

    alone = await work_of_finding()
    for _ in range(200):
        await shelf.conversation()
    assert await work_of_finding() <= 1.05 * alone
