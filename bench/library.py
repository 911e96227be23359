"""What the reads of `bench/reads.py` are about: long and short conversations, and very many of them, stored at once.

Written by the repositories and not through the API, which takes a message at a time once a conversation has begun.
Nothing here is measured.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

from sqlalchemy import insert, text

from domain.accounts import LOCAL_USER_ID
from domain.conversations import Conversation, GenerationSettings, Message, MessagePart, PartKind, Role, TitleSource
from domain.storage import UnitOfWork
from persistence.database import Database
from persistence.tables import replies, reply_attempts
from persistence.unit_of_work import SqlStorage

Item = TypeVar("Item")
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. " * 3
TOKENS = 57
"""Of TEXT, as the prompt builder counts it."""
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
MESSAGES_AT_ONCE = 2_000
CONVERSATIONS_AT_ONCE = 500
"""In one unit of work: the server is up and wants to write too."""


def batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """As itertools has it from Python 3.12 on."""
    left = iter(items)
    while some := tuple(islice(left, size)):
        yield some


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation of so many messages, every second one a settled reply to the one before."""

    id: str
    messages: int
    at: datetime = BEGINNING


@dataclass(frozen=True, slots=True)
class Library:
    """Each kind is as many: so they grow alike while they are measured."""

    short: tuple[Talk, ...]
    long: tuple[Talk, ...]
    others: tuple[Talk, ...]


async def stored(url: str, *, short: int, long: int, each: int, others: int) -> Library:
    """`each` conversations of `short` and of `long` messages, and `others` of two, in a migrated database."""
    library = Library(
        tuple(Talk(f"conv_short{n}", short) for n in range(each)),
        tuple(Talk(f"conv_long{n}", long) for n in range(each)),
        tuple(Talk(f"conv_other{n:06}", 2, BEGINNING + timedelta(seconds=n)) for n in range(others)),
    )
    database = Database(url)
    try:
        await _store(database, [*library.short, *library.long, *library.others])
    finally:
        await database.close()
    return library


async def _store(database: Database, talks: Sequence[Talk]) -> None:
    storage = SqlStorage(database, _Clock())
    for some in batched(talks, CONVERSATIONS_AT_ONCE):
        async with storage.write() as work:
            for talk in some:
                await _add(work, talk)
            await work.commit()
    ids = [(talk.id, _message_id(talk, n)) for talk in talks for n in range(1, talk.messages, 2)]
    for pairs in batched(ids, MESSAGES_AT_ONCE):
        async with database.connect(writing=True) as connection:
            await connection.execute(insert(replies), [_reply(*pair) for pair in pairs])
            await connection.execute(insert(reply_attempts), [_usage(reply_id) for _, reply_id in pairs])
            await connection.commit()
    if not database.is_sqlite:
        async with database.connect(writing=True) as connection:
            await connection.execute(text("ANALYZE"))  # as autovacuum does by and by
            await connection.commit()


async def _add(work: UnitOfWork, talk: Talk) -> None:
    at = talk.at
    conversation = Conversation(
        id=talk.id,
        user_id=LOCAL_USER_ID,
        title=f"About {talk.id}",
        title_source=TitleSource.USER,
        created_at=at,
        updated_at=at,
        last_activity_at=at,
        settings=GenerationSettings(),
        metadata={},
        leaf_id=None,
    )
    await work.conversations.add(conversation)
    for numbers in batched(range(talk.messages), MESSAGES_AT_ONCE):
        await work.messages.add(*(_message(talk, number) for number in numbers))
    await work.conversations.update(replace(conversation, leaf_id=_message_id(talk, talk.messages - 1)))


def _message_id(talk: Talk, number: int) -> str:
    return f"msg_{talk.id}_{number:05}"


def _message(talk: Talk, number: int) -> Message:
    return Message(
        id=_message_id(talk, number),
        conversation_id=talk.id,
        parent_id=_message_id(talk, number - 1) if number else None,
        role=Role.ASSISTANT if number % 2 else Role.USER,
        created_at=talk.at,
        parts=(MessagePart(0, PartKind.TEXT, TEXT),),
        token_count=TOKENS,
        metadata={},
    )


def _reply(conversation_id: str, reply_id: str) -> dict[str, object]:
    return {
        "id": reply_id,
        "conversation_id": conversation_id,
        "user_id": LOCAL_USER_ID,
        "status": "COMPLETE",
        "finish_reason": "STOP",
        "settings": {},
        "attempt": 1,
        "rescues": 0,
        "requests": 1,
        "stop_requested": False,
        "queued_at": BEGINNING,
        "started_at": BEGINNING,
        "finished_at": BEGINNING,
        "last_seq": 4,
        "swept": True,
    }


def _usage(reply_id: str) -> dict[str, object]:
    return {
        "reply_id": reply_id,
        "attempt": 1,
        "ended_at": BEGINNING,
        "input_tokens": 20,
        "output_tokens": TOKENS,
        "cached_input_tokens": 0,
        "reasoning_tokens": 0,
        "estimated": False,
    }
