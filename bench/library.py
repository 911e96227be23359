"""What the reads of `bench/reads.py` are about: long and short conversations, and very many of them, stored at once.

Written by the repositories and not through the API, which takes a message at a time once a conversation has begun.
Nothing here is measured.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from domain.accounts import LOCAL_USER_ID
from domain.conversations import Conversation, GenerationSettings, Message, MessagePart, PartKind, Role, TitleSource
from domain.storage import UnitOfWork
from persistence.database import Database
from persistence.tables import replies, reply_attempts
from persistence.unit_of_work import SqlStorage

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. " * 3
TOKENS = 57
"""Of TEXT, as the prompt builder counts it."""
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 2_000


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Library:
    """Ids. Every message of a user in it has a settled reply."""

    short: tuple[str, ...]
    long: str


async def stored(url: str, *, short: int, shorts: int, long: int, others: int) -> Library:
    """`shorts` conversations of `short` messages, one of `long`, and `others` of two, in a migrated database."""
    database = Database(url)
    storage = SqlStorage(database, _Clock())
    try:
        async with storage.write() as work:
            named = [await _talk(work, f"conv_short{n}", short) for n in range(shorts)]
            named.append(await _talk(work, "conv_long", long))
            times = [BEGINNING + timedelta(seconds=number) for number in range(others)]
            named += [await _talk(work, f"conv_other{n:06}", 2, at) for n, at in enumerate(times)]
            await work.commit()
        await _settled(database, named)
    finally:
        await database.close()
    return Library(tuple(conversation.id for conversation in named[:shorts]), "conv_long")


async def _talk(work: UnitOfWork, name: str, messages: int, at: datetime = BEGINNING) -> Conversation:
    conversation = Conversation(
        id=name,
        user_id=LOCAL_USER_ID,
        title=f"About {name}",
        title_source=TitleSource.USER,
        created_at=at,
        updated_at=at,
        last_activity_at=at,
        settings=GenerationSettings(),
        metadata={},
        leaf_id=None,
    )
    await work.conversations.add(conversation)
    said = [_message(name, number, at) for number in range(messages)]
    for begin in range(0, messages, AT_ONCE):
        await work.messages.add(*said[begin : begin + AT_ONCE])
    conversation = replace(conversation, leaf_id=said[-1].id)
    await work.conversations.update(conversation)
    return conversation


def _message(name: str, number: int, at: datetime) -> Message:
    return Message(
        id=f"msg_{name}_{number:05}",
        conversation_id=name,
        parent_id=f"msg_{name}_{number - 1:05}" if number else None,
        role=Role.ASSISTANT if number % 2 else Role.USER,
        created_at=at,
        parts=(MessagePart(0, PartKind.TEXT, TEXT),),
        token_count=TOKENS,
        metadata={},
    )


async def _settled(database: Database, conversations: list[Conversation]) -> None:
    """Every second message was made here: its reply, and what that used."""
    ids = [(c.id, f"msg_{c.id}_{n:05}") for c in conversations for n in range(1, _length(c), 2)]
    async with database.connect(writing=True) as connection:
        for begin in range(0, len(ids), AT_ONCE):
            some = ids[begin : begin + AT_ONCE]
            await connection.execute(insert(replies), [_reply(*pair) for pair in some])
            await connection.execute(insert(reply_attempts), [_usage(reply_id) for _, reply_id in some])
        await connection.commit()


def _length(conversation: Conversation) -> int:
    assert conversation.leaf_id is not None
    return int(conversation.leaf_id.rpartition("_")[2]) + 1


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
