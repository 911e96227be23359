"""Conversations over a real server: pages, nodes, branches, and mistakes as data."""

import base64
from typing import Any

import pytest

from graph import messages
from tests.serving import Serving

CREATE = """mutation ($input: CreateConversationInput!) { createConversation(input: $input) {
  conversation { id title titleSource metadata settings { systemPrompt model { name } params { temperature } } }
  replayed errors { __typename code message path } } }"""
SEND = """mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id title } message { id text role idempotencyKey metadata } reply { id status text streamCursor }
  replayed errors { __typename code message path ... on ContextTooLongError { inputTokens limit } } } }"""
PAGE = """query ($first: Int, $after: String, $last: Int, $before: String) {
  conversations(first: $first, after: $after, last: $last, before: $before) {
    nodes { id title } totalCount pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
MESSAGES = """query ($id: ID!, $leafId: ID, $first: Int, $after: String, $last: Int, $before: String) {
  conversation(id: $id) { messages(leafId: $leafId, first: $first, after: $after, last: $last, before: $before) {
    nodes { text } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }"""


async def send(server: Serving, text: str = "Hi", **fields: Any) -> dict[str, Any]:
    data = await server.ask(SEND, input={"text": text, "waitMs": 5000} | fields)
    payload: dict[str, Any] = data["sendMessage"]
    return payload


async def test_conversations_page_forward_and_backward_over_the_same_list(server: Serving) -> None:
    for n in range(5):
        await send(server, f"Conversation {n}")
    whole = (await server.ask(PAGE, first=100))["conversations"]
    titles = [c["title"] for c in whole["nodes"]]
    assert titles == [f"Conversation {n}" for n in (4, 3, 2, 1, 0)]
    assert whole["totalCount"] == 5
    forward: list[str] = []
    cursor, more = None, True
    while more:
        page = (await server.ask(PAGE, first=2, after=cursor))["conversations"]
        forward += [c["title"] for c in page["nodes"]]
        cursor, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert forward == titles
    backward: list[str] = []
    cursor, more = None, True
    while more:
        page = (await server.ask(PAGE, last=2, before=cursor))["conversations"]
        backward = [c["title"] for c in page["nodes"]] + backward
        cursor, more = page["pageInfo"]["startCursor"], page["pageInfo"]["hasPreviousPage"]
    assert backward == titles


async def test_messages_page_forward_and_backward_along_the_path(server: Serving) -> None:
    first = await send(server, "1")
    conversation = first["conversation"]["id"]
    for n in (2, 3):
        await send(server, str(n), conversationId=conversation)
    whole = ["1", "Hello there.", "2", "Hello there.", "3", "Hello there."]
    newest = (await server.ask(MESSAGES, id=conversation))["conversation"]["messages"]
    assert [m["text"] for m in newest["nodes"]] == whole
    page = (await server.ask(MESSAGES, id=conversation, last=4))["conversation"]["messages"]
    assert [m["text"] for m in page["nodes"]] == whole[2:]
    assert page["pageInfo"]["hasPreviousPage"]
    before = page["pageInfo"]["startCursor"]
    older = (await server.ask(MESSAGES, id=conversation, last=4, before=before))["conversation"]["messages"]
    assert [m["text"] for m in older["nodes"]] == whole[:2]
    assert not older["pageInfo"]["hasPreviousPage"]
    after = older["pageInfo"]["endCursor"]
    page = (await server.ask(MESSAGES, id=conversation, first=3, after=after))["conversation"]["messages"]
    assert [m["text"] for m in page["nodes"]] == whole[2:5]
    assert page["pageInfo"]["hasNextPage"]


async def test_another_branch_is_read_by_its_leaf(server: Serving) -> None:
    first = await send(server, "1")
    edit = 'mutation ($id: ID!) { editMessage(input: {messageId: $id, text: "2"}) { message { id siblingIndex } } }'
    edited = (await server.ask(edit, id=first["message"]["id"]))["editMessage"]
    assert edited["message"]["siblingIndex"] == 1
    conversation = first["conversation"]["id"]
    page = (await server.ask(MESSAGES, id=conversation, leafId=first["reply"]["id"]))["conversation"]["messages"]
    assert [m["text"] for m in page["nodes"]] == ["1", "Hello there."]
    siblings = "query ($id: ID!) { message(id: $id) { siblings { text } siblingIndex parent { id } } }"
    found = (await server.ask(siblings, id=first["message"]["id"]))["message"]
    assert found == {"siblings": [{"text": "1"}, {"text": "2"}], "siblingIndex": 0, "parent": None}


async def test_of_many_alternatives_those_around_the_message_are_listed(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_PAGE_SIZE", 2)
    ids = [(await send(server, "1"))["message"]["id"]]
    edit = 'mutation ($id: ID!) { editMessage(input: {messageId: $id, text: "2"}) { message { id } } }'
    for _ in range(3):
        ids.append((await server.ask(edit, id=ids[0]))["editMessage"]["message"]["id"])
    for place, shown in enumerate((ids[0:2], ids[0:2], ids[1:3], ids[2:4])):
        found = await server.ask("query ($id: ID!) { message(id: $id) { siblings { id } } }", id=ids[place])
        assert [each["id"] for each in found["message"]["siblings"]] == shown


async def test_a_created_conversation_has_what_it_was_given(server: Serving) -> None:
    given = {
        "title": "Trip",
        "metadata": {"a": [1, None]},
        "settings": {"model": "scripted", "params": {"temperature": 0.5}},
        "history": [
            {"role": "SYSTEM", "text": "Be brief."},
            {"role": "USER", "parts": [{"text": "a"}, {"text": "b"}]},
            {"role": "ASSISTANT", "text": "c"},
        ],
    }
    created = (await server.ask(CREATE, input=given))["createConversation"]
    assert created["errors"] == []
    conversation = created["conversation"]
    assert (conversation["title"], conversation["titleSource"]) == ("Trip", "USER")
    assert conversation["metadata"] == {"a": [1, None]}
    assert conversation["settings"] == {
        "systemPrompt": "Be brief.",
        "model": {"name": "scripted"},
        "params": {"temperature": 0.5},
    }
    page = (await server.ask(MESSAGES, id=conversation["id"]))["conversation"]["messages"]
    assert [m["text"] for m in page["nodes"]] == ["ab", "c"]


async def test_creating_twice_with_one_key_makes_one(server: Serving) -> None:
    answers = [(await server.ask(CREATE, input={"idempotencyKey": "k"}))["createConversation"] for _ in range(2)]
    assert answers[0]["conversation"]["id"] == answers[1]["conversation"]["id"]
    assert [a["replayed"] for a in answers] == [False, True]


BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "empty text": ({"text": ""}, "INVALID_INPUT", ["input", "text"]),
    "over-long text": ({"text": "x" * 100_001}, "INVALID_INPUT", ["input", "text"]),
    "unknown model": ({"settings": {"model": "nope"}}, "MODEL_UNAVAILABLE", ["input", "settings", "model"]),
    "temperature 9": (
        {"settings": {"params": {"temperature": 9}}},
        "INVALID_INPUT",
        ["input", "settings", "params", "temperature"],
    ),
    "foreign conversation": (
        {"conversationId": "conv_01900000000070008000000000000000"},
        "NOT_FOUND",
        ["input", "conversationId"],
    ),
    "malformed conversation": ({"conversationId": "\u2603"}, "NOT_FOUND", ["input", "conversationId"]),
    "two system messages": (
        {"history": [{"role": "SYSTEM", "text": "a"}, {"role": "SYSTEM", "text": "b"}]},
        "INVALID_INPUT",
        ["input", "history"],
    ),
    "text and parts": (
        {"history": [{"role": "USER", "text": "a", "parts": []}]},
        "INVALID_INPUT",
        ["input", "history", "0"],
    ),
    "metadata that is no object": ({"metadata": [1]}, "INVALID_INPUT", ["input", "metadata"]),
    "a wait too long": ({"waitMs": 60_001}, "INVALID_INPUT", ["input", "waitMs"]),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_mistake_is_an_error_with_code_message_and_path_and_stores_nothing(server: Serving, case: str) -> None:
    fields, code, path = BAD[case]
    payload = (await server.ask(SEND, input={"text": "Hi"} | fields))["sendMessage"]
    assert payload["reply"] is None
    (error,) = payload["errors"]
    assert (error["code"], error["path"]) == (code, path)
    assert error["message"].endswith(".")
    assert (await server.ask(PAGE))["conversations"]["totalCount"] == 0


async def test_a_message_too_long_for_the_model_says_how_long_it_is(server: Serving) -> None:
    payload = (await server.ask(SEND, input={"text": "word " * 15_000}))["sendMessage"]
    (error,) = payload["errors"]
    assert error["__typename"] == "ContextTooLongError"
    assert error["inputTokens"] > error["limit"]


async def test_any_object_is_a_node_and_absent_ones_are_null(server: Serving) -> None:
    sent = await send(server)
    viewer = (await server.ask("{ viewer { id } }"))["viewer"]["id"]
    ids = [sent["conversation"]["id"], sent["reply"]["id"], viewer, "conv_1", "msg_1", "user_1", "", "\u2603", "x_1"]
    found = (await server.ask("query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }", ids=ids))["nodes"]
    assert [n and n["__typename"] for n in found] == ["Conversation", "Message", "Viewer"] + [None] * 6


@pytest.mark.parametrize(
    "arguments",
    [
        {"first": 101},
        {"first": 0},
        {"last": -1},
        {"first": 1, "last": 1},
        {"after": "%"},
        {"after": base64.b64encode(b"x").decode()},
    ],
)
async def test_a_wrong_page_is_an_error_with_a_code(server: Serving, arguments: dict[str, Any]) -> None:
    answer = await server.post({"query": PAGE, "variables": arguments})
    assert answer["errors"][0]["extensions"]["code"] == "INVALID_INPUT"


async def test_a_deleted_conversation_is_gone_for_every_query(server: Serving) -> None:
    sent = await send(server)
    delete = "mutation ($id: ID!) { deleteConversation(input: {conversationId: $id}) { deletedId errors { code } } }"
    conversation = sent["conversation"]["id"]
    assert (await server.ask(delete, id=conversation))["deleteConversation"]["deletedId"] == conversation
    assert (await server.ask(delete, id=conversation))["deleteConversation"]["errors"] == [{"code": "NOT_FOUND"}]
    query = "query ($c: ID!, $m: ID!) { conversation(id: $c) { id } message(id: $m) { id } node(id: $m) { id } }"
    assert await server.ask(query, c=conversation, m=sent["reply"]["id"]) == {
        "conversation": None,
        "message": None,
        "node": None,
    }


async def test_the_server_and_its_models_introduce_themselves(server: Serving) -> None:
    data = await server.ask("{ server { version transports limits { maxPageSize } } models { name isDefault } }")
    assert data["server"]["transports"] == ["GRAPHQL_TRANSPORT_WS", "MULTIPART", "SSE"]
    assert data["models"] == [{"name": "scripted", "isDefault": True}]
