"""Strawberry on FastAPI with a queue per reader and SQLite: the nearest peer, as one writes it first.

`python -m bench.peers.strawberry_queue PORT`, GraphQL at `/graphql`, the database in the current folder. A message is
stored when it is sent, its reply when it has ended; a reply under way is in memory only, and is lost with the process.
"""

import asyncio
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import strawberry
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from strawberry.fastapi import GraphQLRouter

engine = create_async_engine("sqlite+aiosqlite:///strawberry_queue.db")
Session = async_sessionmaker(engine, expire_on_commit=False)
client = AsyncOpenAI()
log = logging.getLogger("uvicorn.error")


@event.listens_for(engine.sync_engine, "connect")
def write_ahead(connection: Any, _record: object) -> None:  # noqa: ANN401
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


class Base(DeclarativeBase):
    pass


class StoredMessage(Base):
    __tablename__ = "messages"

    id: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(index=True)
    role: Mapped[str]
    text: Mapped[str]


async def store(message: StoredMessage) -> None:
    async with Session() as session, session.begin():
        session.add(message)


@strawberry.type
class Message:
    id: strawberry.ID
    conversation_id: strawberry.ID


@strawberry.type
class Reply:
    id: strawberry.ID
    text: str


@strawberry.type
class TextDelta:
    text: str


@strawberry.type
class ReplyFinished:
    reply: Reply


ReplyEvent = Annotated[TextDelta | ReplyFinished, strawberry.union("ReplyEvent")]


class LiveReply:
    """A reply under way: its text so far, and a queue for everyone who reads it."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.queues: set[asyncio.Queue[TextDelta | ReplyFinished | Exception]] = set()

    def subscribe(self) -> asyncio.Queue[TextDelta | ReplyFinished | Exception]:
        queue: asyncio.Queue[TextDelta | ReplyFinished | Exception] = asyncio.Queue()
        if self.pieces:
            queue.put_nowait(TextDelta(text="".join(self.pieces)))
        self.queues.add(queue)
        return queue

    def publish(self, published: TextDelta | ReplyFinished | Exception) -> None:
        for queue in self.queues:
            queue.put_nowait(published)


live_replies: dict[str, LiveReply] = {}
tasks: set[asyncio.Task[None]] = set()


async def generate(reply_id: str, conversation_id: str, prompt: str) -> None:
    live = live_replies[reply_id]
    try:
        stream = await client.chat.completions.create(
            model="bench", messages=[{"role": "user", "content": prompt}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                live.pieces.append(piece)
                live.publish(TextDelta(text=piece))
        text = "".join(live.pieces)
        await store(StoredMessage(id=reply_id, conversation_id=conversation_id, role="assistant", text=text))
        live.publish(ReplyFinished(reply=Reply(id=strawberry.ID(reply_id), text=text)))
    except Exception as error:
        log.exception("the reply %s failed", reply_id)
        live.publish(error)
    finally:
        del live_replies[reply_id]


async def stored_reply(reply_id: str) -> Reply | None:
    async with Session() as session:
        message = await session.get(StoredMessage, reply_id)
    return Reply(id=strawberry.ID(message.id), text=message.text) if message else None


@strawberry.type
class Query:
    @strawberry.field
    async def reply(self, id: strawberry.ID) -> Reply | None:
        return await stored_reply(id)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def send_message(self, text: str) -> Message:
        """Begins a conversation; the id is that of the reply, to subscribe to."""
        conversation_id, reply_id = str(uuid.uuid4()), str(uuid.uuid4())
        await store(StoredMessage(id=str(uuid.uuid4()), conversation_id=conversation_id, role="user", text=text))
        live_replies[reply_id] = LiveReply()
        task = asyncio.create_task(generate(reply_id, conversation_id, text))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return Message(id=strawberry.ID(reply_id), conversation_id=strawberry.ID(conversation_id))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def reply_stream(self, reply_id: strawberry.ID) -> AsyncGenerator[ReplyEvent]:
        live = live_replies.get(reply_id)
        if live is None:
            reply = await stored_reply(reply_id)
            if reply is None:
                raise ValueError("there is no such reply")
            yield TextDelta(text=reply.text)
            yield ReplyFinished(reply=reply)
            return
        queue = live.subscribe()
        try:
            while True:
                published = await queue.get()
                if isinstance(published, Exception):
                    raise published
                yield published
                if isinstance(published, ReplyFinished):
                    return
        finally:
            live.queues.discard(queue)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.include_router(GraphQLRouter(strawberry.Schema(Query, Mutation, Subscription)), prefix="/graphql")

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
