"""Sending, over a real server."""

import asyncio
from typing import Any

from domain.accounts import LOCAL_USER_ID
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, answer
from tests.serving import Serving

SEND = """mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id } reply { id status text }
  errors { __typename code message path ... on ReplyInProgressError { reply { id status text } } } } }"""
STATUS = "query ($id: ID!) { message(id: $id) { status text } }"


async def send(server: Serving, text: str, **fields: Any) -> dict[str, Any]:
    payload: dict[str, Any] = (await server.ask(SEND, input={"text": text} | fields))["sendMessage"]
    return payload


async def busy(server: Serving, model: ScriptedModel) -> tuple[str, str]:
    """The ids of a conversation and of its reply, which has shown "one" and does not end by itself."""
    model.play(gated("one", asyncio.Event()), answer("two"))
    sent = await send(server, "First")
    reply_id = sent["reply"]["id"]
    stream = await server.running.services.stream.follow(LOCAL_USER_ID, reply_id, None)
    async for _ in stream:
        if (await server.ask(STATUS, id=reply_id))["message"]["text"] == "one":
            break
    await stream.aclose()
    return sent["conversation"]["id"], reply_id


async def test_one_call_sends_a_message_and_waits_for_the_whole_answer(server: Serving) -> None:
    data = await server.ask(
        'mutation { sendMessage(input: {text: "Hi", waitMs: 5000}) { reply { status text } errors { message } } }'
    )
    assert data["sendMessage"] == {"reply": {"status": "COMPLETE", "text": "Hello there."}, "errors": []}


async def test_by_default_the_reply_to_a_message_sent_meanwhile_is_queued(
    server: Serving, model: ScriptedModel
) -> None:
    conversation_id, _ = await busy(server, model)
    assert (await send(server, "Second", conversationId=conversation_id))["reply"]["status"] == "QUEUED"


async def test_a_refused_message_names_the_reply_that_is_in_progress(server: Serving, model: ScriptedModel) -> None:
    conversation_id, reply_id = await busy(server, model)
    payload = await send(server, "Second", conversationId=conversation_id, onBusy="REJECT")
    assert payload["reply"] is None
    (error,) = payload["errors"]
    assert error.pop("message").endswith(".")
    assert error == {
        "__typename": "ReplyInProgressError",
        "code": "REPLY_IN_PROGRESS",
        "path": ["input", "onBusy"],
        "reply": {"id": reply_id, "status": "STREAMING", "text": "one"},
    }


async def test_a_message_that_interrupts_is_answered_and_the_stopped_text_stays(
    server: Serving, model: ScriptedModel
) -> None:
    conversation_id, reply_id = await busy(server, model)
    payload = await send(server, "Second", conversationId=conversation_id, onBusy="INTERRUPT", waitMs=10_000)
    assert (payload["reply"]["status"], payload["reply"]["text"]) == ("COMPLETE", "two")
    assert (await server.ask(STATUS, id=reply_id))["message"] == {"status": "STOPPED", "text": "one"}
