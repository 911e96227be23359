"""Rights that end while they are used: sockets and streams end within seconds of an expiry, and of every revocation."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter

import pytest

from domain import authentication
from tests.graph.protocol import Socket
from tests.patience import PATIENCE_SECONDS
from tests.security.people import (
    CHANGE,
    FEED,
    LOGOUT,
    SEND,
    STREAM,
    Person,
    ready_socket,
    register,
)
from tests.security.resolvers import Resolved
from tests.security.tokens import expiring
from tests.serving import Serving

shared = pytest.mark.asyncio(loop_scope="module")
LIST = "{ conversations { totalCount } }"
LEAVE = "mutation ($input: DeleteAccountInput!) { deleteAccount(input: $input) { errors { code } } }"
CREATE = 'mutation { createConversation(input: {title: "Mine"}) { conversation { id } errors { code } } }'


async def follow_all(socket: Socket, reply: str) -> None:
    """A feed and a reply that is being made."""
    await socket.send(type="subscribe", id="feed", payload={"query": FEED})
    await socket.send(type="subscribe", id="reply", payload={"query": STREAM, "variables": {"id": reply}})
    assert {(await socket.receive())["id"] for _ in range(2)} == {"feed", "reply"}


def test_it_is_looked_often_enough_for_the_five_seconds_of_our_pages() -> None:
    assert authentication.LOOK_SECONDS <= 4


@shared
async def test_a_token_that_expires_in_mid_stream_is_closed_with_4403(guard: Serving) -> None:
    person = await register(guard)
    reply = (await person.do(SEND, text="Hi"))["reply"]["id"]
    async with ready_socket(guard.url, await expiring(person, 5)) as socket:
        await follow_all(socket, reply)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await socket.close_code() == 4403


async def by_logout(person: Person) -> None:
    await person.do(LOGOUT)


async def by_logout_elsewhere(person: Person) -> None:
    await (await person.log_in()).do(LOGOUT, everywhere=True)


async def by_refresh_token(person: Person) -> None:
    await person.server.ask(LOGOUT, input={"refreshToken": person.refresh})


async def by_new_password(person: Person) -> None:
    await person.do(CHANGE, currentPassword=person.password, newPassword="battery staple")


async def by_leaving(person: Person) -> None:
    await person.do(LEAVE, password=person.password)


async def by_another_device(person: Person) -> None:
    (session,) = await person.sessions()
    revoke = "mutation ($input: RevokeSessionInput!) { revokeSession(input: $input) { errors { code } } }"
    await (await person.log_in()).do(revoke, sessionId=session)


async def by_the_operator(person: Person) -> None:
    """`tertulia user set-password`, on the database of the running server."""
    environment = os.environ | {"DATABASE_URL": person.server.running.settings.database_url}
    pipe = asyncio.subprocess.PIPE
    command = await asyncio.create_subprocess_exec(
        *SET_PASSWORD, person.email, stdin=pipe, stdout=pipe, env=environment
    )
    await command.communicate(b"battery staple\n")
    assert command.returncode == 0


SET_PASSWORD = (sys.executable, "-m", "tertulia.cli", "user", "set-password")
WAYS = [
    by_logout,
    by_logout_elsewhere,
    by_refresh_token,
    by_new_password,
    by_leaving,
    by_another_device,
    by_the_operator,
]


@shared
@pytest.mark.parametrize("end", WAYS, ids=lambda way: way.__name__)
async def test_a_session_that_ends_in_mid_stream_is_closed_with_4403(
    guard: Serving, end: Callable[[Person], Awaitable[None]]
) -> None:
    person = await register(guard)
    reply = (await person.do(SEND, text="Hi"))["reply"]["id"]
    async with ready_socket(guard.url, person.access) as socket, ready_socket(guard.url, person.access) as idle:
        await follow_all(socket, reply)
        await end(person)
        began = perf_counter()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert [await each.close_code() for each in (socket, idle)] == [4403, 4403]
        print(f"closed {perf_counter() - began:.1f} s after {end.__name__}")


@shared
async def test_an_api_key_that_is_revoked_in_mid_stream_is_closed_with_4403(guard: Serving) -> None:
    person = await register(guard)
    key_id, key = await person.new_key()
    reply = (await person.do(SEND, text="Hi"))["reply"]["id"]
    revoke = "mutation ($input: RevokeApiKeyInput!) { revokeApiKey(input: $input) { errors { code } } }"
    async with ready_socket(guard.url, key) as socket, ready_socket(guard.url, person.access) as other:
        await follow_all(socket, reply)
        await person.do(revoke, apiKeyId=key_id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await socket.close_code() == 4403
        await other.subscribe(LIST)
        assert (await other.receive())["type"] == "next", "who asks otherwise goes on"


@shared
async def test_an_operation_on_a_socket_whose_session_has_just_ended_is_not_executed(
    guard: Serving, resolved: Resolved
) -> None:
    person = await register(guard)
    async with ready_socket(guard.url, person.access) as socket:
        await person.do(LOGOUT)
        resolved.forget()
        await socket.subscribe(CREATE)
        assert await socket.close_code() == 4403
    assert not resolved.fields
