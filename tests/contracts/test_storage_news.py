"""The contract of news: what has been written to many replies since, in one question."""

from domain.events import LoggedEvent
from tests.contracts.storing import ANSWER, Shelf, only_postgresql
from tests.contracts.test_storage_log import sweep


async def news(shelf: Shelf, positions: dict[str, int], limit: int = 100) -> dict[str, list[LoggedEvent]]:
    async with shelf.storage.read() as work:
        return await work.log.news(positions, limit)


async def test_news_are_what_follows_each_position(shelf: Shelf) -> None:
    one, two = await shelf.streaming(), await shelf.streaming()
    await shelf.flush(one.entry(*ANSWER), two.entry(*ANSWER))
    found = await news(shelf, {one.id: 1, two.id: 3})
    assert found == {one.id: one.written, two.id: two.written[2:]}


async def test_a_reply_without_news_is_known_and_has_none(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    assert await news(shelf, {pen.id: 1}) == {pen.id: []}


async def test_a_reply_whose_log_is_gone_is_not_in_the_news(shelf: Shelf) -> None:
    pen = await shelf.settled()
    await sweep(shelf, 1)
    assert await news(shelf, {pen.id: 1, "msg_absent": 0}) == {}


async def test_news_of_nothing_are_none(shelf: Shelf) -> None:
    assert await news(shelf, {}) == {}


@only_postgresql
async def test_news_come_some_at_a_time(shelf: Shelf) -> None:
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(*ANSWER))
    assert await news(shelf, {pen.id: 1}, limit=2) == {pen.id: pen.written[:2]}
