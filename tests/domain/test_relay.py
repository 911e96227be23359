"""Two servers on one PostgreSQL, in one process: what one makes is read, stopped and gone on with on the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from domain.replies import ReplyStatus
from persistence import schema
from persistence.database import Database
from tertulia.services import open_services
from tests.domain.conftest import ME, Talk
from tests.domain.test_replies import status_of
from tests.domain.test_streaming import Screen, gated
from tests.doubles import ScriptedModel, WordCounter, answer
from tests.postgres import drop_database, new_database
from tests.serving import settings_for


@dataclass
class Pair:
    """`maker` makes replies; `other` only reads, until its worker is let to claim."""

    maker: Talk
    other: Talk


@pytest.fixture
async def pair(tmp_path: Path, postgres: str) -> AsyncIterator[Pair]:
    url = await new_database(postgres)
    database = Database(url)
    await schema.upgrade(database)
    await database.close()
    settings = settings_for(tmp_path, database_url=url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(drop_database, postgres, url)
        models = ScriptedModel(), ScriptedModel()
        opened = [open_services(settings, model=model, tokens=WordCounter()) for model in models]
        maker, other = [Talk(await stack.enter_async_context(o), m) for o, m in zip(opened, models, strict=True)]
        other.running.worker.places.closed = True
        yield Pair(maker, other)


class Reader:
    """Follows a reply to its end, and can be asked to wait for a text."""

    def __init__(self, talk: Talk, reply_id: str) -> None:
        self.screen = Screen()
        self.done = asyncio.create_task(self._follow(talk, reply_id))
        self._news = asyncio.Event()

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.screen.parts)

    async def sees(self, text: str) -> None:
        while self.text != text:
            self._news.clear()
            await self._news.wait()

    async def _follow(self, talk: Talk, reply_id: str) -> None:
        async for streamed in await talk.running.services.stream.follow(ME, reply_id, None):
            self.screen.apply(streamed)
            self._news.set()


async def test_a_reply_is_read_on_another_server_while_it_is_made(pair: Pair) -> None:
    gate = asyncio.Event()
    pair.maker.model.play(gated("one ", gate, "two"))
    reader = Reader(pair.other, (await pair.maker.send()).reply_id)
    await reader.sees("one ")
    gate.set()
    await reader.done
    assert (reader.text, reader.screen.status) == ("one two", ReplyStatus.COMPLETE)


async def test_a_reply_is_stopped_from_another_server(pair: Pair) -> None:
    pair.maker.model.play(gated("one ", asyncio.Event()))
    sent = await pair.maker.send()
    await Reader(pair.other, sent.reply_id).sees("one ")
    await pair.other.running.services.replies.stop_reply(ME, sent.reply_id)
    assert status_of(await pair.other.message(sent.reply_id)) is ReplyStatus.STOPPED
    await pair.maker.model.closed.wait()


async def test_readers_of_a_server_that_stops_see_the_reply_go_on_elsewhere(pair: Pair) -> None:
    pair.maker.model.play(gated("one ", asyncio.Event()))
    pair.other.model.play(answer("two"))
    sent = await pair.maker.send()
    readers = Reader(pair.maker, sent.reply_id), Reader(pair.other, sent.reply_id)
    for reader in readers:
        await reader.sees("one ")
    pair.other.running.worker.places.closed = False
    await pair.maker.running.worker.drain(0)
    await asyncio.gather(*(reader.done for reader in readers))
    assert [reader.text for reader in readers] == ["one two", "one two"]
    reply = (await pair.other.message(sent.reply_id)).reply
    assert reply is not None
    assert (reply.status, reply.attempt, reply.rescues) == (ReplyStatus.COMPLETE, 2, 0)


async def test_many_readers_of_one_reply_all_see_it(pair: Pair) -> None:
    gate = asyncio.Event()
    pair.maker.model.play(gated("one ", gate, "two"))
    sent = await pair.maker.send()
    readers = [Reader(pair.other, sent.reply_id) for _ in range(20)]
    for reader in readers:
        await reader.sees("one ")
    gate.set()
    await asyncio.gather(*(reader.done for reader in readers))
    assert {reader.text for reader in readers} == {"one two"}
