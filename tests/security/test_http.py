"""HTTP for somebody who is not signed in, or no longer: what is public, what is refused, and how streams end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import count
from time import perf_counter
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from graph.operations import PUBLIC
from graph.schema import build_schema
from tests.graph.protocol import SSE
from tests.patience import PATIENCE_SECONDS
from tests.security.people import (
    FEED,
    LOGOUT,
    PASSWORD,
    SEND,
    STREAM,
    Person,
    bearing,
    register,
    streamed,
)
from tests.security.resolvers import Resolved
from tests.security.tokens import expiring
from tests.serving import Serving
from tests.system.polling import until

shared = pytest.mark.asyncio(loop_scope="module")
GRAPHQL = {"accept": "application/graphql-response+json"}
REVOKE = "mutation ($input: RevokeApiKeyInput!) { revokeApiKey(input: $input) { errors { code } } }"
LOGIN_AS = 'login(input: {email: "%s", password: "%s"}) { accessToken errors { code } }'
CREATE = 'createConversation(input: {title: "Mine"}) { conversation { id } }'
_numbers = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(guard: Serving) -> Person:
    return await register(guard)


async def answered(
    server: Serving, query: str, headers: dict[str, str] | None = None, **variables: Any
) -> tuple[int, Any, str]:
    """Status, `WWW-Authenticate` and the body."""
    body = {"query": query, "variables": variables}
    async with server.http.post(f"{server.url}/graphql", json=body, headers=headers) as response:
        return response.status, response.headers.get("www-authenticate"), await response.text()


# ── what is refused ──


def private_fields() -> list[str]:
    """A document for each field of the roots that is not public, as short as the schema allows."""
    schema = build_schema()._schema
    documents = []
    for root in (schema.query_type, schema.mutation_type, schema.subscription_type):
        assert root is not None
        documents += [f"{root.name}.{name}" for name in root.fields if name not in PUBLIC]
    return documents


CALLED = {
    "Query.conversations": "{ conversations { totalCount } }",
    "Query.conversation": '{ conversation(id: "conv_1") { id } }',
    "Query.message": '{ message(id: "msg_1") { id } }',
    "Query.models": "{ models { name } }",
    "Query.node": '{ node(id: "conv_1") { id } }',
    "Query.nodes": '{ nodes(ids: ["conv_1"]) { id } }',
    "Query.tools": "{ tools { name } }",
    "Query.tasks": "{ tasks { id } }",
    "Query.viewer": "{ viewer { id } }",
    "Mutation.sendMessage": 'mutation { sendMessage(input: {text: "Hi"}) { reply { id } } }',
    "Mutation.editMessage": 'mutation { editMessage(input: {messageId: "msg_1", text: "Hi"}) { reply { id } } }',
    "Mutation.regenerateReply": 'mutation { regenerateReply(input: {replyId: "msg_1"}) { reply { id } } }',
    "Mutation.continueReply": 'mutation { continueReply(input: {replyId: "msg_1"}) { reply { id } } }',
    "Mutation.stopReply": 'mutation { stopReply(input: {replyId: "msg_1"}) { reply { id } } }',
    "Mutation.resolveToolCall": """mutation {
      resolveToolCall(input: {toolCallId: "call_1", decision: APPROVE}) { toolCall { id } } }""",
    "Mutation.createConversation": "mutation { createConversation(input: {}) { conversation { id } } }",
    "Mutation.renameConversation": 'mutation { renameConversation(input: {conversationId: "c"}) { errors { code } } }',
    "Mutation.deleteConversation": 'mutation { deleteConversation(input: {conversationId: "c"}) { deletedId } }',
    "Mutation.changePassword": """mutation {
      changePassword(input: {currentPassword: "old password", newPassword: "new password"}) { accessToken } }""",
    "Mutation.revokeSession": 'mutation { revokeSession(input: {sessionId: "ses_1"}) { deletedId } }',
    "Mutation.deleteAccount": 'mutation { deleteAccount(input: {password: "old password"}) { deletedId } }',
    "Mutation.createApiKey": 'mutation { createApiKey(input: {name: "robot"}) { secret } }',
    "Mutation.revokeApiKey": 'mutation { revokeApiKey(input: {apiKeyId: "key_1"}) { deletedId } }',
    "Subscription.replyStream": 'subscription { replyStream(replyId: "msg_1") { cursor } }',
    "Subscription.conversationEvents": "subscription { conversationEvents { cursor } }",
}


def test_every_field_that_is_not_public_has_a_case() -> None:
    assert CALLED.keys() == set(private_fields())


@shared
@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("token", [None, "wrong", "tk_wrong"])
async def test_a_field_that_is_not_public_needs_a_token_that_holds(
    guard: Serving, resolved: Resolved, name: str, token: str | None
) -> None:
    headers = {} if token is None else bearing(token)
    if name == "Query.viewer" and token is None:
        assert (await answered(guard, CALLED[name]))[2] == '{"data":{"viewer":null}}'
        return
    accept = SSE if name.startswith("Subscription") else GRAPHQL
    status, challenge, text = await answered(guard, CALLED[name], headers | accept)
    assert '"code":"UNAUTHENTICATED"' in text
    assert '"data":' not in text
    if not name.startswith("Subscription"):
        assert (status, challenge) == (401, "Bearer")
    assert not resolved.fields


@shared
async def test_public_fields_answer_strangers(guard: Serving, person: Person) -> None:
    email = f"stranger{next(_numbers)}@example.org"
    for query in (
        "{ server { registrationOpen authentication } }",
        '{ __typename __schema { queryType { name } } __type(name: "Query") { name } }',
        f'mutation {{ register(input: {{email: "{email}", password: "{PASSWORD}"}}) {{ accessToken }} }}',
        f"mutation {{ {LOGIN_AS % (person.email, PASSWORD)} }}",
        'mutation { refreshSession(input: {refreshToken: "x"}) { errors { code } } }',
        "mutation { logout(input: {}) { errors { code } } }",
    ):
        status, _, text = await answered(guard, query)
        assert status == 200
        assert '"data":' in text
        assert "UNAUTHENTICATED" not in text


MIXED = {
    "beside": "mutation {{ {login} {create} }}",
    "before": "mutation {{ {create} {login} }}",
    "under another name": "mutation {{ {login} login2: {create} }}",
    "in a fragment": "mutation {{ {login} ...F }} fragment F on Mutation {{ {create} }}",
    "in a fragment of a fragment": (
        "mutation {{ {login} ...F }} fragment F on Mutation {{ ...G }} fragment G on Mutation {{ {create} }}"
    ),
    "inline": "mutation {{ {login} ... on Mutation {{ ... {{ {create} }} }} }}",
    "skipped by a variable": "mutation ($no: Boolean = false) {{ {login} ... @skip(if: $no) {{ {create} }} }}",
    "in the operation that is not first": "query A {{ server {{ version }} }} mutation B {{ {login} {create} }}",
}


@shared
@pytest.mark.parametrize("document", MIXED.values(), ids=MIXED.keys())
async def test_what_is_public_is_not_executed_beside_what_is_not(
    guard: Serving, person: Person, resolved: Resolved, document: str
) -> None:
    query = document.format(login=LOGIN_AS % (person.email, PASSWORD), create=CREATE)
    sessions = len(await person.sessions())
    resolved.forget()
    body = {"query": query} | ({"operationName": "B"} if "query A" in query else {})
    async with guard.http.post(f"{guard.url}/graphql", json=body) as response:
        assert response.status == 401
        assert "data" not in await response.json()
    assert not resolved.fields
    assert len(await person.sessions()) == sessions


@shared
async def test_a_query_for_the_viewer_tells_strangers_nothing_of_what_is_beside_it(
    guard: Serving, resolved: Resolved
) -> None:
    for beside in ("conversations { totalCount }", "models { name }", 'node(id: "conv_1") { id }'):
        status, _, text = await answered(guard, f"{{ viewer {{ id }} {beside} }}")
        assert (status, "data" in text) == (401, False)
    assert not resolved.fields


@shared
@pytest.mark.parametrize(
    "value",
    [
        "Bearer é",
        "Bearer \xff\xfe",
        "bearer",
        "Bearer ",
        "Basic eDp4",
        "Bearer tk_é",
        "Bearer a b",
        "Bearer " + "x" * 8_000,
    ],
)
async def test_any_authorization_header_is_refused_calmly(guard: Serving, resolved: Resolved, value: str) -> None:
    status, _, text = await answered(guard, "{ models { name } }", {"authorization": value})
    assert status == 401, text
    assert not resolved.fields


@shared
async def test_a_token_in_the_address_is_no_token(guard: Serving, person: Person) -> None:
    address = f"{guard.url}/graphql?query={{models{{name}}}}&access_token={person.access}&token={person.access}"
    async with guard.http.get(address) as response:
        assert response.status == 401


# ── streams ──


@shared
async def test_a_stream_by_a_token_that_expires_breaks_off(guard: Serving) -> None:
    for protocol in ("sse", "multipart"):
        person = await register(guard)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await broken_off(guard, await expiring(person, 5), protocol, person, nothing)


async def nothing(_person: Person) -> None:
    """The token expires by itself."""


async def by_logout(person: Person) -> None:
    await person.do(LOGOUT)


async def by_leaving(person: Person) -> None:
    leave = "mutation ($input: DeleteAccountInput!) { deleteAccount(input: $input) { errors { code } } }"
    await person.do(leave, password=person.password)


async def broken_off(
    server: Serving, token: str, protocol: str, person: Person, end: Callable[[Person], Awaitable[object]]
) -> None:
    """A feed begins, its right ends, and the response ends without its last chunk."""
    async with aclosing(streamed(server, token, protocol, FEED)) as events:
        assert "ResyncRequired" in str(await anext(events))
        await end(person)
        began = perf_counter()
        with pytest.raises(aiohttp.ClientPayloadError):
            async for _event in events:
                pass
    print(f"{protocol} broke off {perf_counter() - began:.1f} s after {end.__name__}")


@shared
@pytest.mark.parametrize("protocol", ["sse", "multipart"])
@pytest.mark.parametrize("end", [by_logout, by_leaving])
async def test_a_stream_of_a_session_that_ends_breaks_off(
    guard: Serving, protocol: str, end: Callable[[Person], Awaitable[object]]
) -> None:
    person = await register(guard)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await broken_off(guard, person.access, protocol, person, end)


@shared
@pytest.mark.parametrize("protocol", ["sse", "multipart"])
async def test_a_stream_by_an_api_key_that_is_revoked_breaks_off(guard: Serving, protocol: str) -> None:
    person = await register(guard)
    key_id, key = await person.new_key()

    async def revoke(person: Person) -> None:
        await person.do(REVOKE, apiKeyId=key_id)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await broken_off(guard, key, protocol, person, revoke)
    assert await person.code() is None


@shared
async def test_a_reply_goes_on_when_the_right_of_its_reader_ends(guard: Serving) -> None:
    person = await register(guard)
    reply = (await person.do(SEND, text="Hi"))["reply"]["id"]
    async with aclosing(streamed(guard, person.access, "sse", STREAM, id=reply)) as events:
        await anext(events)
        await person.do(LOGOUT)
        with pytest.raises(aiohttp.ClientPayloadError):
            async for _event in events:
                pass
    status = "query ($id: ID!) { message(id: $id) { status } }"
    assert (await (await person.log_in()).ask(status, id=reply))["message"]["status"] == "STREAMING"


@shared
async def test_streams_leave_nothing_behind(guard: Serving, person: Person) -> None:
    for number in range(40):
        async with aclosing(streamed(guard, person.access, ("sse", "multipart")[number % 2], FEED)) as events:
            await anext(events)
    left = guard.running.services.watch._ends

    async def gone() -> bool:
        return not left

    assert await until(gone)
