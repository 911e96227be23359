"""The contract of Users, on every database, and of giving one user's conversations to another."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import update

from domain.account_storage import Account
from domain.accounts import LOCAL_USER_ID, ApiKey, Session, User
from domain.conversations import PageRequest
from domain.replies import ReplyStatus
from persistence.tables import replies
from tests.contracts.storing import ANSWER, BEGINNING, DONE, ME, Shelf, a_conversation, new_id

HASH = "$argon2id$v=19$m=47104,t=1,p=1$c2FsdA$aGFzaA"
LONG_AGO = BEGINNING - timedelta(days=365)
MUCH_LATER = BEGINNING + timedelta(days=365 * 50)


def a_user(**changes: Any) -> User:
    return replace(User(new_id("user"), "Ada", BEGINNING, "ada@example.org"), **changes)


async def add(shelf: Shelf, user: User, password_hash: str | None = HASH) -> bool:
    async with shelf.storage.write() as work:
        added = await work.users.add(user, password_hash)
        await work.commit()
    return added


async def added(shelf: Shelf, **changes: Any) -> User:
    user = a_user(**changes)
    assert await add(shelf, user)
    return user


async def delete(shelf: Shelf, user_id: str) -> None:
    async with shelf.storage.write() as work:
        await work.users.delete(user_id)
        await work.commit()


async def purge_conversations(shelf: Shelf) -> int:
    async with shelf.storage.write() as work:
        purged = await work.conversations.purge(LONG_AGO)
        await work.commit()
    return purged


async def purge(shelf: Shelf) -> int:
    async with shelf.storage.write() as work:
        purged = await work.users.purge()
        await work.commit()
    return purged


async def get(shelf: Shelf, user_id: str) -> User | None:
    async with shelf.storage.read() as work:
        return await work.users.get(user_id)


async def page(shelf: Shelf, after: str | None = None, limit: int = 10) -> list[str]:
    async with shelf.storage.read() as work:
        return [user.id for user in await work.users.page(after, limit)]


# ── adding and finding ──


async def test_a_user_is_found_as_they_were_added(shelf: Shelf) -> None:
    user = await added(shelf, display_name="Ada 🧀")
    async with shelf.storage.read() as work:
        assert await work.users.get(user.id) == user
        assert await work.users.account(user.id) == Account(user, HASH)
        assert await work.users.by_email("ada@example.org") == Account(user, HASH)


async def test_a_user_of_an_identity_provider_is_found_by_issuer_and_subject(shelf: Shelf) -> None:
    user = await added(shelf, email=None, issuer="https://id.example", subject="42", display_name=None)
    async with shelf.storage.read() as work:
        assert await work.users.by_subject("https://id.example", "42") == user
        assert await work.users.by_subject("https://id.example", "43") is None
        assert await work.users.by_subject("https://else.example", "42") is None


async def test_nobody_is_found_who_was_not_added(shelf: Shelf) -> None:
    async with shelf.storage.read() as work:
        assert await work.users.get("user_absent") is None
        assert await work.users.account("user_\0") is None
        assert await work.users.by_email("nobody@example.org") is None


async def test_an_address_that_is_taken_stores_nothing_and_the_unit_goes_on(shelf: Shelf) -> None:
    await added(shelf)
    second, third = a_user(), a_user(email="grace@example.org")
    async with shelf.storage.write() as work:
        assert not await work.users.add(second, HASH)
        assert await work.users.add(third, HASH)
        await work.commit()
    assert await get(shelf, second.id) is None
    assert await get(shelf, third.id) == third


async def test_a_subject_is_taken_at_its_issuer_alone(shelf: Shelf) -> None:
    await added(shelf, email=None, issuer="https://id.example", subject="42")
    assert not await add(shelf, a_user(email=None, issuer="https://id.example", subject="42"))
    assert await add(shelf, a_user(email=None, issuer="https://else.example", subject="42"))


async def test_any_number_of_users_have_no_address(shelf: Shelf) -> None:
    assert [await add(shelf, a_user(email=None), None) for _ in range(3)] == [True] * 3


async def test_of_many_at_once_one_gets_the_address(shelf: Shelf) -> None:
    assert (await asyncio.gather(*(add(shelf, a_user()) for _ in range(8)))).count(True) == 1


async def test_whoever_waits_for_an_address_gets_it_when_the_other_gives_up(shelf: Shelf) -> None:
    async with shelf.storage.write() as work:
        await work.users.add(a_user(), HASH)
        waiting = asyncio.create_task(add(shelf, a_user()))
        await shelf.somebody_waits()
        assert not waiting.done()
    assert await waiting


async def test_users_are_listed_in_the_order_of_their_creation(shelf: Shelf) -> None:
    made = [(await added(shelf, email=f"{n}@example.org")).id for n in range(4)]
    everybody = sorted([LOCAL_USER_ID, *made])
    assert await page(shelf, None, 3) == everybody[:3]
    assert await page(shelf, everybody[2]) == everybody[3:]
    assert await page(shelf, everybody[-1]) == []


# ── deleting ──


async def test_a_deleted_user_is_found_by_nothing(shelf: Shelf) -> None:
    user = await added(shelf, issuer="https://id.example", subject="42")
    await delete(shelf, user.id)
    async with shelf.storage.write() as work:
        await work.users.set_password(user.id, "new")
        await work.commit()
    async with shelf.storage.read() as work:
        assert await work.users.get(user.id) is None
        assert await work.users.account(user.id) is None
        assert await work.users.by_email("ada@example.org") is None
        assert await work.users.by_subject("https://id.example", "42") is None
    assert await page(shelf) == [LOCAL_USER_ID]


async def test_the_address_and_the_subject_of_a_deleted_user_are_free_at_once(shelf: Shelf) -> None:
    user = await added(shelf, issuer="https://id.example", subject="42")
    await delete(shelf, user.id)
    assert await add(shelf, replace(user, id=new_id("user")))


async def test_the_sessions_and_keys_of_a_deleted_user_are_gone_and_nobody_elses(shelf: Shelf) -> None:
    user, other = await added(shelf), await added(shelf, email="grace@example.org")
    sessions = [Session(new_id("sess"), u.id, None, BEGINNING, BEGINNING, MUCH_LATER) for u in (user, other)]
    keys = [ApiKey(new_id("key"), u.id, "ci", "tk_1", BEGINNING) for u in (user, other)]
    async with shelf.storage.write() as work:
        for n, (session, key) in enumerate(zip(sessions, keys, strict=True)):
            await work.sessions.add(session, f"token {n}")
            await work.api_keys.add(key, f"key {n}")
        await work.commit()
    await delete(shelf, user.id)
    async with shelf.storage.write() as work:
        assert await work.sessions.alive([s.id for s in sessions]) == {sessions[1].id}
        assert await work.api_keys.alive([k.id for k in keys]) == {keys[1].id}
        assert await work.sessions.by_token("token 0") is None
        assert await work.api_keys.by_hash("key 0") is None


async def test_the_conversations_of_a_deleted_user_are_found_by_nobody_and_purged_next(shelf: Shelf) -> None:
    user = await added(shelf)
    lost, early = await shelf.conversation(user_id=user.id), await shelf.conversation(user_id=user.id)
    kept = await shelf.conversation()
    async with shelf.storage.write() as work:
        await work.conversations.delete(early.id, BEGINNING)
        await work.commit()
    await delete(shelf, user.id)
    async with shelf.storage.read() as work:
        assert await work.conversations.get(user.id, lost.id) is None
    assert await purge_conversations(shelf) == 2
    async with shelf.storage.read() as work:
        assert await work.conversations.get(ME, kept.id) == kept


async def test_a_purge_removes_deleted_users_when_their_conversations_are_gone(shelf: Shelf) -> None:
    user = await added(shelf)
    await added(shelf, email="grace@example.org")
    await shelf.conversation(user_id=user.id)
    await delete(shelf, user.id)
    assert await purge(shelf) == 0
    await purge_conversations(shelf)
    assert await purge(shelf) == 1
    assert await purge(shelf) == 0


async def test_a_deleted_user_stays_while_a_reply_is_counted_as_theirs_that_another_has_now(shelf: Shelf) -> None:
    user = await added(shelf)
    pen = await shelf.streaming((await shelf.conversation(user_id=user.id)).id)
    async with shelf.database.connect(writing=True) as connection:
        await connection.execute(update(replies).where(replies.c.id == pen.id).values(user_id=user.id))
        await connection.commit()
    await give(shelf, user.id, ME)
    await delete(shelf, user.id)
    assert await purge(shelf) == 0
    await shelf.flush(pen.entry(*ANSWER, outcome=DONE))
    assert await purge(shelf) == 1


async def test_a_purge_leaves_out_users_to_whom_something_is_being_added(shelf: Shelf) -> None:
    user = await added(shelf)
    await delete(shelf, user.id)
    async with shelf.storage.write() as work:
        await work.keys.reserve(user.id, "sendMessage", "k", "print")
        if not shelf.database.is_sqlite:
            assert await purge(shelf) == 0
    assert await purge(shelf) == 1


async def test_a_conversation_that_was_begun_while_its_user_was_deleted_does_not_stay(shelf: Shelf) -> None:
    user = await added(shelf)
    async with shelf.storage.write() as work:
        await work.users.delete(user.id)
        await work.conversations.add(a_conversation(user_id=user.id))
        await work.commit()
    assert await purge(shelf) == 0
    assert await purge_conversations(shelf) == 1
    assert await purge(shelf) == 1


async def test_a_user_is_deleted_while_they_send_and_read_and_nobody_waits_in_a_circle(shelf: Shelf) -> None:
    user = await added(shelf)
    conversation = await shelf.conversation(user_id=user.id)
    pens = [await shelf.streaming(conversation.id) for _ in range(4)]

    async def send(key: str) -> None:
        async with shelf.storage.write() as work:
            await work.keys.reserve(user.id, "sendMessage", key, "print")
            await work.conversations.get(user.id, conversation.id, lock=True)
            await work.commit()

    flushes = [shelf.flush(pen.entry(*ANSWER, outcome=DONE)) for pen in pens]
    await asyncio.gather(*(send(str(n)) for n in range(8)), delete(shelf, user.id), *flushes)
    assert await get(shelf, user.id) is None


async def test_whoever_uses_a_key_is_not_waited_for_in_a_circle(shelf: Shelf) -> None:
    """The key's row points to the user, who is changed last: a key must not keep the change from happening."""
    user = await added(shelf)
    conversation = await shelf.conversation(user_id=user.id)
    async with shelf.storage.write() as work:
        await work.keys.reserve(user.id, "sendMessage", "k", "print")
        if not shelf.database.is_sqlite:
            await delete(shelf, user.id)
        found = await work.conversations.get(user.id, conversation.id, lock=True)
    assert (found is not None) == shelf.database.is_sqlite


# ── giving ──


async def give(shelf: Shelf, from_user_id: str, to_user_id: str) -> int:
    async with shelf.storage.write() as work:
        given = await work.conversations.give(from_user_id, to_user_id)
        await work.commit()
    return given


async def owned(shelf: Shelf, user_id: str) -> set[str]:
    async with shelf.storage.read() as work:
        return {c.id for c in (await work.conversations.page(user_id, PageRequest(first=100))).items}


async def newest(shelf: Shelf, user_id: str) -> int:
    async with shelf.storage.read() as work:
        return await work.feed.newest(user_id)


async def test_given_conversations_are_the_others_with_all_they_hold(shelf: Shelf) -> None:
    user = await added(shelf)
    mine, theirs = [await shelf.conversation() for _ in range(3)], await shelf.conversation(user_id=user.id)
    said = await shelf.message(mine[0].id)
    assert await give(shelf, ME, user.id) == 3
    assert await owned(shelf, ME) == set()
    assert await owned(shelf, user.id) == {theirs.id, *(c.id for c in mine)}
    async with shelf.storage.read() as work:
        assert await work.messages.get(user.id, said.id) is not None
        assert await work.messages.get(ME, said.id) is None


async def test_deleted_conversations_are_given_too_and_stay_deleted(shelf: Shelf) -> None:
    user = await added(shelf)
    conversation = await shelf.conversation()
    async with shelf.storage.write() as work:
        await work.conversations.delete(conversation.id, BEGINNING)
        await work.commit()
    assert await give(shelf, ME, user.id) == 1
    assert await owned(shelf, user.id) == set()


async def test_both_users_feeds_say_that_more_happened_than_is_told(shelf: Shelf) -> None:
    user = await added(shelf)
    for _ in range(3):
        await shelf.conversation()
    await give(shelf, ME, user.id)
    for user_id in (ME, user.id):
        assert await newest(shelf, user_id) == 1
        assert await shelf.told(user_id) == []


async def test_giving_nothing_tells_nobody(shelf: Shelf) -> None:
    user = await added(shelf)
    assert await give(shelf, ME, user.id) == 0
    assert await newest(shelf, ME) == 0


async def test_a_live_reply_goes_on_while_its_conversation_is_given_and_its_end_is_told_the_new_user(
    shelf: Shelf,
) -> None:
    user = await added(shelf)
    pen = await shelf.streaming()
    await shelf.flush(pen.entry(ANSWER[0]))
    await give(shelf, ME, user.id)
    before = await newest(shelf, ME)
    assert await shelf.flush(pen.entry(*ANSWER[1:])) == [True]
    assert await shelf.flush(pen.entry(outcome=DONE)) == [True]
    assert await shelf.status(pen.id) is ReplyStatus.COMPLETE
    assert [e.message_id for e in await shelf.told(user.id, after=1)] == [pen.id]
    assert await newest(shelf, ME) == before


async def test_a_waiting_reply_is_claimed_and_rescued_for_the_user_who_has_its_conversation_now(shelf: Shelf) -> None:
    user = await added(shelf)
    await shelf.queued()
    await give(shelf, ME, user.id)
    (lease,) = await shelf.claim()
    assert lease.user_id == user.id
    (orphan,) = await shelf.orphans()
    assert orphan.user_id == user.id


async def test_giving_flushing_and_writing_at_once_do_not_wait_in_a_circle(shelf: Shelf) -> None:
    user = await added(shelf)
    pens = [await shelf.streaming() for _ in range(6)]
    ends = [shelf.flush(pen.entry(*ANSWER, outcome=DONE)) for pen in pens]
    given = [give(shelf, ME, user.id), give(shelf, user.id, ME)]
    await asyncio.gather(*ends, *given, *(shelf.conversation() for _ in range(4)))
    assert {await shelf.status(pen.id) for pen in pens} == {ReplyStatus.COMPLETE}


# ── what is live ──


async def unsettled_of(shelf: Shelf, user_id: str) -> list[str]:
    async with shelf.storage.write() as work:
        return await work.replies.unsettled_of(user_id)


async def test_the_unsettled_replies_of_a_user_are_those_in_the_conversations_they_have(shelf: Shelf) -> None:
    user = await added(shelf)
    await shelf.settled()
    streaming = await shelf.streaming()
    queued = await shelf.queued()
    theirs = await shelf.queued((await shelf.conversation(user_id=user.id)).id)
    assert await unsettled_of(shelf, ME) == sorted([streaming.id, queued])
    assert await unsettled_of(shelf, user.id) == [theirs]
    await give(shelf, user.id, ME)
    assert await unsettled_of(shelf, ME) == sorted([streaming.id, queued, theirs])


async def test_no_reply_ends_while_those_of_its_user_are_stopped_and_the_user_deleted(shelf: Shelf) -> None:
    user = await added(shelf)
    pens = [await shelf.streaming((await shelf.conversation(user_id=user.id)).id) for _ in range(3)]
    entries = [pen.entry(*ANSWER, outcome=DONE) for pen in pens]
    async with shelf.storage.write() as work:
        live = await work.replies.unsettled_of(user.id)
        ending = asyncio.create_task(shelf.flush(*entries))
        await shelf.somebody_waits()
        for reply_id in reversed(live):
            assert await work.replies.request_stop(reply_id) is ReplyStatus.STREAMING
        await work.users.delete(user.id)
        await work.commit()
    assert await ending == [True] * 3
