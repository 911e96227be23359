"""Budgets of users: what is reserved, spent and told, on every database."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from domain.account_storage import Use
from domain.errors import QuotaExceeded
from domain.limits import Allowances, UserLimits
from domain.replies import FinishReason, HandOver, Outcome, ReplyStatus, Usage
from domain.storage import Storage
from persistence.tables import token_usage
from tests.contracts.storing import DONE, ME, Pen, Shelf, add_reply, law


async def use_of(shelf: Shelf, user_id: str, without: str | None = None) -> Use:
    async with shelf.storage.read() as work:
        return await work.budgets.use(user_id, without)


async def reserving(shelf: Shelf, user_id: str, tokens: int) -> str:
    """A queued reply of the user, in a conversation of its own, that has reserved so much."""
    conversation = await shelf.conversation(user_id=user_id)
    return await shelf.queued(conversation.id, reserved_tokens=tokens)


async def pen_of(shelf: Shelf, reply_id: str) -> Pen:
    return next(Pen(lease) for lease in await shelf.claim() if lease.reply_id == reply_id)


def totals(use: Use) -> tuple[int, int, int, int]:
    return use.live, use.reserved, use.tokens_today, use.tokens_this_month


async def test_a_user_who_did_nothing_has_used_nothing(shelf: Shelf) -> None:
    assert totals(await use_of(shelf, await shelf.user())) == (0, 0, 0, 0)


async def test_live_replies_and_what_they_reserve_are_told_of_their_user_alone(shelf: Shelf) -> None:
    ann, ben = await shelf.user(), await shelf.user()
    first = await reserving(shelf, ann, 10)
    await reserving(shelf, ann, 20)
    await reserving(shelf, ben, 5)
    assert totals(await use_of(shelf, ann)) == (2, 30, 0, 0)
    assert totals(await use_of(shelf, ann, without=first)) == (2, 20, 0, 0)
    assert totals(await use_of(shelf, ben)) == (1, 5, 0, 0)


async def test_a_lease_says_what_its_reply_has_reserved(shelf: Shelf) -> None:
    reply_id = await reserving(shelf, await shelf.user(), 10)
    assert (await pen_of(shelf, reply_id)).lease.reserved_tokens == 10


async def test_the_end_of_a_reply_turns_what_it_reserved_into_what_it_spent(shelf: Shelf) -> None:
    ann = await shelf.user()
    pen = await pen_of(shelf, await reserving(shelf, ann, 100))
    assert DONE.usage.total_tokens == 10
    assert await shelf.flush(pen.entry(outcome=DONE)) == [True]
    assert totals(await use_of(shelf, ann)) == (0, 0, 10, 10)


async def test_an_end_that_is_sent_twice_is_spent_once(shelf: Shelf) -> None:
    ann = await shelf.user()
    pen = await pen_of(shelf, await reserving(shelf, ann, 100))
    entry = pen.entry(outcome=DONE)
    assert [await shelf.flush(entry), await shelf.flush(entry)] == [[True], [True]]
    assert (await use_of(shelf, ann)).tokens_today == 10


async def test_ends_of_several_users_in_one_flush_are_spent_by_each(shelf: Shelf) -> None:
    ann, ben = await shelf.user(), await shelf.user()
    for user_id in (ben, ann, ann):
        await reserving(shelf, user_id, 100)
    pens = [Pen(lease) for lease in await shelf.claim()]
    await shelf.flush(*(pen.entry(outcome=DONE) for pen in pens))
    assert totals(await use_of(shelf, ann)) == (0, 0, 20, 20)
    assert totals(await use_of(shelf, ben)) == (0, 0, 10, 10)


async def test_the_local_user_spends_nothing(shelf: Shelf) -> None:
    await shelf.settled()
    assert (await use_of(shelf, ME)).tokens_today == 0


async def test_a_reply_that_goes_back_into_the_queue_spends_its_part_and_keeps_the_rest(shelf: Shelf) -> None:
    ann = await shelf.user()
    reply_id = await reserving(shelf, ann, 100)
    pen = await pen_of(shelf, reply_id)
    await shelf.requeue(pen.lease, HandOver(Usage(20, 10), requests=1))
    assert totals(await use_of(shelf, ann)) == (1, 70, 30, 30)
    pen = await pen_of(shelf, reply_id)
    assert pen.lease.reserved_tokens == 70
    await shelf.requeue(pen.lease, HandOver(Usage(80, 10), requests=1))
    assert totals(await use_of(shelf, ann)) == (1, 0, 120, 120)


async def test_a_reply_that_somebody_wants_stopped_is_not_live_but_keeps_its_reservation(shelf: Shelf) -> None:
    ann = await shelf.user()
    pen = await pen_of(shelf, await reserving(shelf, ann, 100))
    await shelf.stop(pen.id)
    assert totals(await use_of(shelf, ann)) == (0, 100, 0, 0)


async def test_a_reply_that_was_stopped_in_the_queue_reserves_nothing(shelf: Shelf) -> None:
    ann = await shelf.user()
    await shelf.stop(await reserving(shelf, ann, 100))
    assert totals(await use_of(shelf, ann)) == (0, 0, 0, 0)


async def test_only_whoever_holds_the_lease_may_reserve_more(shelf: Shelf) -> None:
    ann = await shelf.user()
    pen = await pen_of(shelf, await reserving(shelf, ann, 100))
    async with shelf.storage.write() as work:
        assert await work.budgets.reserve(pen.lease, 150)
        await work.commit()
    assert (await use_of(shelf, ann)).reserved == 150
    await shelf.requeue(pen.lease)
    async with shelf.storage.write() as work:
        assert not await work.budgets.reserve(pen.lease, 900)
        await work.commit()
    assert (await use_of(shelf, ann)).reserved == 150


async def test_days_and_months_begin_at_midnight_of_utc(shelf: Shelf) -> None:
    ann = await shelf.user()
    today = (await use_of(shelf, ann)).today
    first = today.replace(day=1)
    days = {today: 1, today - timedelta(days=1): 10, first: 100, first - timedelta(days=1): 1_000}
    async with shelf.database.connect(writing=True) as connection:
        rows = [{"user_id": ann, "day": day, "tokens": tokens} for day, tokens in days.items()]
        await connection.execute(insert(token_usage), rows)
        await connection.commit()
    use = await use_of(shelf, ann)
    assert use.tokens_today == days[today]
    assert use.tokens_this_month == sum(tokens for day, tokens in days.items() if day >= first)


# ── many at once ──


async def send(storage: Storage, allowances: Allowances, shelf: Shelf, user_id: str, tokens: int) -> bool:
    """Queue a reply as a send does; whether it was taken."""
    conversation = await shelf.conversation(user_id=user_id)
    async with storage.write() as work:
        try:
            await allowances.count_send(work, user_id)
            reserved = await allowances.reserve(work, user_id, tokens)
        except QuotaExceeded:
            return False
        await add_reply(work, conversation.id, reserved_tokens=reserved)
        await work.commit()
    return True


@pytest.mark.parametrize("sends_per_minute", [None, 1_000])
async def test_replies_queued_at_once_never_reserve_more_than_the_budget(
    shelf: Shelf, sends_per_minute: int | None
) -> None:
    ann, limit = await shelf.user(), 10_000
    allowances = Allowances(shelf.storage, UserLimits(sends_per_minute=sends_per_minute, tokens_per_day=limit))
    taken = await asyncio.gather(*(send(shelf.storage, allowances, shelf, ann, 700) for _ in range(50)))
    assert sum(taken) == limit // 700
    assert (await use_of(shelf, ann)).reserved == 700 * (limit // 700)


async def test_of_replies_queued_at_once_no_more_are_live_than_the_limit(shelf: Shelf) -> None:
    ann = await shelf.user()
    allowances = Allowances(shelf.storage, UserLimits(live_replies=3))
    taken = await asyncio.gather(*(send(shelf.storage, allowances, shelf, ann, 700) for _ in range(20)))
    assert (sum(taken), (await use_of(shelf, ann)).live) == (3, 3)


ACTS = st.lists(
    st.tuples(st.sampled_from(["send", "extend", "settle", "hand over"]), st.integers(0, 3), st.integers(1, 60)),
    max_size=20,
)


@law
@given(acts=ACTS)
async def test_whatever_happens_no_more_is_spent_and_reserved_than_the_limit(
    shelf: Shelf, acts: list[tuple[str, int, int]]
) -> None:
    """As long as no attempt spends more than it has reserved, which the generator sees to."""
    ann, limit = await shelf.user(), 100
    allowances = Allowances(shelf.storage, UserLimits(tokens_per_day=limit))
    for act, place, tokens in acts:
        if act == "send":
            await send(shelf.storage, allowances, shelf, ann, tokens)
        pens = [Pen(lease) for lease in await shelf.claim() if lease.user_id == ann]
        if pens:
            await happens(shelf, allowances, act, pens[place % len(pens)], tokens)
        for pen in pens:
            await shelf.requeue(pen.lease)
        use = await use_of(shelf, ann)
        assert use.tokens_today + use.reserved <= limit


async def happens(shelf: Shelf, allowances: Allowances, act: str, pen: Pen, tokens: int) -> None:
    spent = Usage(min(tokens, pen.lease.reserved_tokens), 0)
    match act:
        case "extend":
            async with shelf.storage.write() as work:
                try:
                    await allowances.extend(work, pen.lease, pen.lease.reserved_tokens + tokens)
                except QuotaExceeded:
                    return
                await work.commit()
        case "settle":
            await shelf.flush(pen.entry(outcome=Outcome(ReplyStatus.COMPLETE, FinishReason.STOP, usage=spent)))
        case "hand over":
            await shelf.requeue(pen.lease, HandOver(spent, requests=1))
