"""Sending, editing, regenerating and stopping."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from domain.conversations import GenerationSettings, Message, ModelParams, PageRequest, Role, SeedMessage
from domain.errors import (
    ContextTooLong,
    DomainError,
    IdempotencyMismatch,
    InvalidInput,
    ModelUnavailable,
    NotFound,
)
from domain.inputs import ContinueReply, EditMessage, RegenerateReply, SendMessage
from domain.models import RequestStarted, TextChunk
from domain.replies import MOVES, FinishReason, ReplyStatus
from tests.domain.conftest import ME, Talk
from tests.domain.test_streaming import gated
from tests.doubles import ScriptedModel, Step, answer, heard


def status_of(message: object) -> ReplyStatus:
    reply = getattr(message, "reply")  # noqa: B009
    assert reply is not None
    status: ReplyStatus = reply.status
    return status


async def test_a_message_without_a_conversation_begins_one_titled_with_its_first_words(talk: Talk) -> None:
    reply = await talk.say("Where do whales   sleep,\nand for how long at a time do they, does anybody know?")
    conversation = await talk.running.services.conversations.get(ME, reply.conversation_id)
    assert conversation.title == "Where do whales sleep, and for how long at a time do they,…"
    assert conversation.leaf_id == reply.id


async def test_the_model_gets_the_system_prompt_and_the_path_so_far(talk: Talk, model: ScriptedModel) -> None:
    first = await talk.say("One")
    await talk.say("Two", conversation_id=first.conversation_id)
    said = [(m.role, "".join(m.texts)) for m in heard(model.requests[-1].messages)]
    assert said[0][0] is Role.SYSTEM
    assert said[1:] == [(Role.USER, "One"), (Role.ASSISTANT, "Hello there."), (Role.USER, "Two")]


async def test_a_history_comes_before_the_message_and_its_system_message_becomes_the_prompt(
    talk: Talk, model: ScriptedModel
) -> None:
    history = (
        SeedMessage(Role.SYSTEM, ("Be terse.",)),
        SeedMessage(Role.USER, ("a", "b")),
        SeedMessage(Role.ASSISTANT, ("c",)),
    )
    reply = await talk.say("d", history=history)
    said = [(m.role, m.texts) for m in heard(model.requests[-1].messages)]
    assert said == [
        (Role.SYSTEM, ("Be terse.",)),
        (Role.USER, ("a", "b")),
        (Role.ASSISTANT, ("c",)),
        (Role.USER, ("d",)),
    ]
    conversation = await talk.running.services.conversations.get(ME, reply.conversation_id)
    assert conversation.settings.system_prompt == "Be terse."


async def test_settings_of_the_message_go_over_those_of_the_server(talk: Talk, model: ScriptedModel) -> None:
    params = ModelParams(temperature=0.1, top_p=0.5, max_tokens=7, stop=("x",), seed=3)
    await talk.say("Hi", settings=GenerationSettings(params=params))
    assert model.requests[-1].params == params


async def test_the_same_key_ten_times_at_once_stores_one_message_and_one_reply(talk: Talk) -> None:
    results = await asyncio.gather(*(talk.send("Hi", idempotency_key="k") for _ in range(10)))
    assert len({sent.reply_id for sent in results}) == 1
    assert sorted(sent.replayed for sent in results) == [False] + [True] * 9
    assert await talk.running.services.conversations.count(ME) == 1


async def test_the_same_key_with_other_content_is_a_mismatch(talk: Talk) -> None:
    await talk.send("Hi", idempotency_key="k")
    with pytest.raises(IdempotencyMismatch):
        await talk.send("Ho", idempotency_key="k")


async def test_two_hundred_sends_at_once_are_all_stored(talk: Talk) -> None:
    results = await asyncio.gather(*(talk.send(f"Message {n}") for n in range(200)))
    assert len({sent.message_id for sent in results}) == 200
    assert await talk.running.services.conversations.count(ME) == 200


async def test_an_edit_is_a_sibling_with_a_reply_of_its_own(talk: Talk) -> None:
    first = await talk.send("One")
    await talk.settled(first.reply_id)
    edited = await talk.running.services.replies.edit_message(ME, EditMessage(first.message_id or "", "Other"))
    await talk.settled(edited.reply_id)
    service = talk.running.services.conversations
    roots = await service.children([(first.conversation_id, None)])
    assert roots[(first.conversation_id, None)] == [first.message_id, edited.message_id]
    page = await service.path(ME, first.conversation_id, None, PageRequest(last=10))
    assert [m.text for m in page.items] == ["Other", "Hello there."]


async def test_a_regenerated_reply_is_a_sibling_that_hears_the_wish(talk: Talk, model: ScriptedModel) -> None:
    first = await talk.say("One")
    again = await talk.running.services.replies.regenerate_reply(ME, RegenerateReply(first.id, instruction="Shorter."))
    second = await talk.settled(again.reply_id)
    assert second.parent_id == first.parent_id
    assert heard(model.requests[-1].messages)[-1].texts == ("Shorter.",)


async def test_a_reply_behind_a_running_one_waits_for_it(talk: Talk, model: ScriptedModel) -> None:
    gate = asyncio.Event()
    model.play(gated("one", gate), answer("two"))
    first = await talk.send("First")
    await streaming(talk, first.reply_id)
    second = await talk.send("Second", conversation_id=first.conversation_id)
    await talk.say("Elsewhere")
    assert status_of(await talk.message(second.reply_id)) is ReplyStatus.QUEUED
    gate.set()
    assert (await talk.settled(second.reply_id)).text == "two"
    assert [m.texts for m in heard(model.requests[-1].messages)][1:] == [("First",), ("one",), ("Second",)]


async def test_stopping_keeps_the_text_and_closes_the_request(talk: Talk, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    sent = await talk.send()
    await streaming(talk, sent.reply_id, "one")
    await talk.running.services.replies.stop_reply(ME, sent.reply_id)
    reply = await talk.message(sent.reply_id)
    assert reply.text == "one"
    assert reply.reply is not None
    assert reply.reply.finish_reason is FinishReason.STOPPED_BY_USER
    assert reply.reply.usage is not None
    assert reply.reply.usage.estimated
    await model.closed.wait()


async def test_stopping_a_queued_reply_never_calls_the_model(talk: Talk, model: ScriptedModel) -> None:
    gate = asyncio.Event()
    model.play(gated("one", gate), answer("never"))
    first = await talk.send("First")
    await streaming(talk, first.reply_id)
    second = await talk.send("Second", conversation_id=first.conversation_id)
    third = await talk.send("Third", conversation_id=first.conversation_id)
    await talk.running.services.replies.stop_reply(ME, second.reply_id)
    assert status_of(await talk.message(second.reply_id)) is ReplyStatus.STOPPED
    assert status_of(await talk.message(third.reply_id)) is ReplyStatus.QUEUED
    assert len(model.requests) == 1
    gate.set()
    await talk.settled(third.reply_id)
    assert len(model.requests) == 2


async def test_a_second_stop_is_harmless(talk: Talk) -> None:
    reply = await talk.say()
    await talk.running.services.replies.stop_reply(ME, reply.id)
    assert status_of(await talk.message(reply.id)) is ReplyStatus.COMPLETE


async def test_deleting_a_conversation_stops_its_replies(talk: Talk, model: ScriptedModel) -> None:
    model.play(gated("one", asyncio.Event()))
    sent = await talk.send()
    await streaming(talk, sent.reply_id)
    await talk.running.services.conversations.delete(ME, sent.conversation_id)
    await model.closed.wait()
    with pytest.raises(NotFound):
        await talk.message(sent.reply_id)


def nested(levels: int) -> dict[str, object]:
    return {"a": nested(levels - 1)} if levels else {}


BAD: dict[str, tuple[SendMessage, type[DomainError], tuple[str, ...]]] = {
    "empty text": (SendMessage("  "), InvalidInput, ("text",)),
    "long text": (SendMessage("x" * 100_001), InvalidInput, ("text",)),
    "NUL": (SendMessage("a\0b"), InvalidInput, ("text",)),
    "half a surrogate pair": (SendMessage("a\ud800"), InvalidInput, ("text",)),
    "unknown model": (
        SendMessage("Hi", settings=GenerationSettings(model="nope")),
        ModelUnavailable,
        ("settings", "model"),
    ),
    "temperature 9": (
        SendMessage("Hi", settings=GenerationSettings(params=ModelParams(temperature=9))),
        InvalidInput,
        ("settings", "params", "temperature"),
    ),
    "temperature nan": (
        SendMessage("Hi", settings=GenerationSettings(params=ModelParams(temperature=float("nan")))),
        InvalidInput,
        ("settings", "params", "temperature"),
    ),
    "no tokens": (
        SendMessage("Hi", settings=GenerationSettings(params=ModelParams(max_tokens=0))),
        InvalidInput,
        ("settings", "params", "maxTokens"),
    ),
    "unknown conversation": (SendMessage("Hi", conversation_id="conv_1"), NotFound, ("conversationId",)),
    "parent without conversation": (SendMessage("Hi", parent_id="msg_1"), InvalidInput, ("parentId",)),
    "two system messages": (
        SendMessage("Hi", history=(SeedMessage(Role.SYSTEM, ("a",)), SeedMessage(Role.SYSTEM, ("b",)))),
        InvalidInput,
        ("history",),
    ),
    "an empty seed": (SendMessage("Hi", history=(SeedMessage(Role.USER, ()),)), InvalidInput, ("history", "0")),
    "metadata nested too deeply": (SendMessage("Hi", metadata=nested(40)), InvalidInput, ("metadata",)),
    "NUL in metadata": (SendMessage("Hi", metadata={"a": [{"b\0": 1}]}), InvalidInput, ("metadata",)),
    "an integer that JSON cannot hold": (SendMessage("Hi", metadata={"a": [2**64]}), InvalidInput, ("metadata",)),
    "a date before all dates": (
        SendMessage("Hi", history=(SeedMessage(Role.USER, ("a",), datetime(1, 1, 1, tzinfo=UTC)),)),
        InvalidInput,
        ("history", "0"),
    ),
    "an empty key": (SendMessage("Hi", idempotency_key=""), InvalidInput, ("idempotencyKey",)),
    "too long for the model": (SendMessage("word " * 9_000), ContextTooLong, ("text",)),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_a_typed_error_and_stores_nothing(talk: Talk, case: str) -> None:
    command, kind, path = BAD[case]
    with pytest.raises(kind) as caught:
        await talk.running.services.replies.send_message(ME, command)
    assert isinstance(caught.value, DomainError)
    assert caught.value.path == path
    assert await talk.running.services.conversations.count(ME) == 0


async def test_a_parent_from_another_conversation_is_refused(talk: Talk) -> None:
    here, there = await talk.say(), await talk.say()
    with pytest.raises(InvalidInput) as caught:
        await talk.send("Hi", conversation_id=here.conversation_id, parent_id=there.id)
    assert caught.value.path == ("parentId",)


async def test_an_answer_cannot_be_edited_nor_a_question_regenerated(talk: Talk) -> None:
    sent = await talk.send()
    with pytest.raises(InvalidInput):
        await talk.running.services.replies.edit_message(ME, EditMessage(sent.reply_id, "x"))
    with pytest.raises(InvalidInput):
        await talk.running.services.replies.regenerate_reply(ME, RegenerateReply(sent.message_id or ""))


async def test_nothing_of_somebody_elses_can_be_touched(talk: Talk) -> None:
    sent = await talk.send()
    replies, conversations = talk.running.services.replies, talk.running.services.conversations
    stranger = "user_stranger"
    for attempt in (
        replies.send_message(stranger, SendMessage("Hi", conversation_id=sent.conversation_id)),
        replies.edit_message(stranger, EditMessage(sent.message_id or "", "x")),
        replies.regenerate_reply(stranger, RegenerateReply(sent.reply_id)),
        replies.stop_reply(stranger, sent.reply_id),
        conversations.rename(stranger, sent.conversation_id, "x"),
        conversations.delete(stranger, sent.conversation_id),
        conversations.get(stranger, sent.conversation_id),
        conversations.message(stranger, sent.reply_id),
    ):
        with pytest.raises(NotFound):
            await attempt


def test_settled_states_allow_no_move_and_every_other_state_can_fail() -> None:
    for status, moves in MOVES.items():
        assert status.settled == (not moves)
        assert status.settled or ReplyStatus.FAILED in moves


async def test_a_renamed_conversation_keeps_its_title_until_the_server_is_asked_for_one(talk: Talk) -> None:
    reply = await talk.say("First words")
    service = talk.running.services.conversations
    await service.rename(ME, reply.conversation_id, "Mine")
    await talk.say("More", conversation_id=reply.conversation_id)
    assert (await service.get(ME, reply.conversation_id)).title == "Mine"
    await service.rename(ME, reply.conversation_id, None)
    assert (await service.get(ME, reply.conversation_id)).title == "First words"


# ── continuing ──


async def failed_after(talk: Talk, model: ScriptedModel, text: str) -> Message:
    model.play([RequestStarted(None), TextChunk(text), RuntimeError("boom")], answer("and whole"))
    return await talk.say("Hi", settings=GenerationSettings(params=ModelParams(max_tokens=100)))


async def test_a_reply_that_failed_is_continued_beside_it_from_its_text(talk: Talk, model: ScriptedModel) -> None:
    failed = await failed_after(talk, model, "Half a ")
    sent = await talk.running.services.replies.continue_reply(ME, ContinueReply(failed.id))
    reply = await talk.settled(sent.reply_id)
    assert (reply.text, reply.parent_id, status_of(reply)) == (
        "Half a and whole",
        failed.parent_id,
        ReplyStatus.COMPLETE,
    )
    assert model.requests[-1].unfinished == "Half a "
    assert (await talk.message(failed.id)).text == "Half a "


async def test_a_reader_of_a_continued_reply_sees_the_earlier_text_at_once(talk: Talk, model: ScriptedModel) -> None:
    failed = await failed_after(talk, model, "Half a ")
    talk.running.worker.places.closed = True
    sent = await talk.running.services.replies.continue_reply(ME, ContinueReply(failed.id))
    message = await talk.message(sent.reply_id)
    assert (message.text, status_of(message), message.token_count) == ("Half a ", ReplyStatus.QUEUED, 2)
    talk.running.worker.places.closed = False


async def test_a_reply_may_be_continued_again_and_again_and_write_as_much_each_time(
    talk: Talk, model: ScriptedModel
) -> None:
    broken: list[Step] = [RequestStarted(None), TextChunk("more "), RuntimeError("boom")]
    reply_id = (await failed_after(talk, model, "Half a ")).id
    model.play(broken, broken, answer("end"))
    for _ in range(3):
        sent = await talk.running.services.replies.continue_reply(ME, ContinueReply(reply_id))
        reply_id = (await talk.settled(sent.reply_id)).id
    assert [request.params.max_tokens for request in model.requests] == [100, 100, 100]
    assert (await talk.message(reply_id)).text == "Half a more more end"


async def test_a_reply_that_is_whole_cannot_be_continued(talk: Talk) -> None:
    reply = await talk.say()
    with pytest.raises(InvalidInput):
        await talk.running.services.replies.continue_reply(ME, ContinueReply(reply.id))


async def test_continuing_twice_with_one_key_is_one_reply(talk: Talk, model: ScriptedModel) -> None:
    failed = await failed_after(talk, model, "Half a ")
    command = ContinueReply(failed.id, idempotency_key="k")
    first, second = [await talk.running.services.replies.continue_reply(ME, command) for _ in range(2)]
    assert (first.reply_id, second.replayed) == (second.reply_id, True)


async def streaming(talk: Talk, reply_id: str, text: str | None = None) -> None:
    """Wait until the reply streams, or until that text is stored."""
    stream = await talk.running.services.stream.follow(ME, reply_id, None)
    async for _ in stream:
        message = await talk.message(reply_id)
        if status_of(message) is ReplyStatus.STREAMING and (text is None or message.text == text):
            break
    await stream.aclose()


def test_settings_fall_through_levels_one_by_one() -> None:
    server = GenerationSettings("m", "s", ModelParams(temperature=1.0, max_tokens=5))
    conversation = GenerationSettings(system_prompt="c", params=ModelParams(temperature=0.5))
    message = GenerationSettings(params=ModelParams(seed=1))
    merged = message.over(conversation).over(server)
    assert merged == replace(server, system_prompt="c", params=ModelParams(temperature=0.5, max_tokens=5, seed=1))
