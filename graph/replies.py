"""Sending, editing, regenerating and stopping: inputs, payloads and mutations."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import strawberry
from strawberry.scalars import JSON

from domain.errors import DomainError, InvalidInput, NotFound, ReplyInProgress
from domain.inputs import ContinueReply, EditMessage, OnBusy, RegenerateReply, SendMessage
from domain.reply_service import Sent
from graph.context import Context, Info
from graph.conversations import Conversation, MutationPayload, SeedMessageInput, metadata_from, seeds_from
from graph.errors import UserError, reply_in_progress, user_error
from graph.messages import Message
from graph.models import GenerationSettingsInput, settings_from

MAX_WAIT_MS = 60_000
AgainCommand = TypeVar("AgainCommand", RegenerateReply, ContinueReply)

strawberry.enum(
    OnBusy,
    description="QUEUE: the new reply waits, visibly QUEUED. REJECT: nothing is stored, see ReplyInProgressError. "
    "INTERRUPT: the replies that are being made stop and keep their text, and the new one comes next.",
)


@strawberry.input
class SendMessageInput:
    text: str
    conversation_id: strawberry.ID | None = strawberry.field(
        default=None, description="Leave out to start a new conversation."
    )
    history: list[SeedMessageInput] | None = strawberry.field(
        default=None,
        description="For a new conversation: what was said before, oldest first; "
        "a system message becomes the system prompt.",
    )
    parent_id: strawberry.ID | None = strawberry.field(
        default=None, description="Message to answer; the end of the chosen path when left out."
    )
    settings: GenerationSettingsInput | None = strawberry.field(default=None, description="For this reply only.")
    on_busy: OnBusy = strawberry.field(
        default=OnBusy.QUEUE, description="What to do when a reply on this path is still being made."
    )
    wait_ms: int | None = strawberry.field(
        default=0,
        description="Wait up to this long (at most 60,000) for the reply to end, or to await approval, before "
        "answering, so that one plain HTTP call gets the whole answer; then it is returned as it stands. 0 answers at "
        "once.",
    )
    metadata: JSON | None = None
    idempotency_key: str | None = strawberry.field(
        default=None, description="Sending the same key again returns the first result instead of doing it twice."
    )


@strawberry.input
class EditMessageInput:
    message_id: strawberry.ID
    text: str
    settings: GenerationSettingsInput | None = None
    idempotency_key: str | None = None


@strawberry.input
class RegenerateReplyInput:
    reply_id: strawberry.ID
    settings: GenerationSettingsInput | None = None
    instruction: str | None = strawberry.field(default=None, description="Extra wish, e.g. shorter.")
    idempotency_key: str | None = None


@strawberry.input
class ContinueReplyInput:
    reply_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class StopReplyInput:
    reply_id: strawberry.ID


@strawberry.type
class SendMessagePayload(MutationPayload):
    conversation: Conversation | None = None
    message: Message | None = None
    reply: Message | None = None
    replayed: bool = strawberry.field(default=False, description="True when the key had been used before.")


@strawberry.type
class RegenerateReplyPayload(MutationPayload):
    conversation: Conversation | None = None
    reply: Message | None = None
    replayed: bool = strawberry.field(default=False, description="True when the key had been used before.")


@strawberry.type
class StopReplyPayload(MutationPayload):
    reply: Message | None = None


@strawberry.type
class ReplyMutation:
    @strawberry.mutation(description="Stores a message and queues the reply to it.")
    async def send_message(self, info: Info, input: SendMessageInput) -> SendMessagePayload:
        context = info.context
        try:
            wait_ms = input.wait_ms or 0
            if not 0 <= wait_ms <= MAX_WAIT_MS:
                raise InvalidInput(f"`waitMs` must be between 0 and {MAX_WAIT_MS}.", "waitMs")
            command = SendMessage(
                text=input.text,
                conversation_id=input.conversation_id,
                parent_id=input.parent_id,
                history=seeds_from(input.history),
                settings=settings_from(input.settings),
                on_busy=input.on_busy,
                metadata=metadata_from(input.metadata),
                idempotency_key=input.idempotency_key,
            )
            sent = await context.services.replies.send_message(context.user_id, command)
            context.services.queued(sent)
            if wait_ms:
                await context.services.stream.settled(sent.reply_id, wait_ms / 1000, or_waits=True)
                sent = replace(sent, stored=None)
            return await _sent(context, sent)
        except ReplyInProgress as error:
            return SendMessagePayload(errors=[await _in_progress(context, error)])
        except DomainError as error:
            return SendMessagePayload(errors=[user_error(error)])

    @strawberry.mutation(
        description="Stores another version of a user's message beside it, and queues a reply to that."
    )
    async def edit_message(self, info: Info, input: EditMessageInput) -> SendMessagePayload:
        command = EditMessage(input.message_id, input.text, settings_from(input.settings), input.idempotency_key)
        try:
            sent = await info.context.services.replies.edit_message(info.context.user_id, command)
            info.context.services.queued(sent)
            return await _sent(info.context, sent)
        except DomainError as error:
            return SendMessagePayload(errors=[user_error(error)])

    @strawberry.mutation(description="Queues another reply beside an earlier one.")
    async def regenerate_reply(self, info: Info, input: RegenerateReplyInput) -> RegenerateReplyPayload:
        command = RegenerateReply(
            input.reply_id, settings_from(input.settings), input.instruction, input.idempotency_key
        )
        return await _made_again(info.context, info.context.services.replies.regenerate_reply, command)

    @strawberry.mutation(
        description="Queues another reply beside one that failed, was stopped or got too long. It begins with that "
        "one's text, and the model goes on from there."
    )
    async def continue_reply(self, info: Info, input: ContinueReplyInput) -> RegenerateReplyPayload:
        command = ContinueReply(input.reply_id, input.idempotency_key)
        return await _made_again(info.context, info.context.services.replies.continue_reply, command)

    @strawberry.mutation(description="Stops a reply and keeps its text. Harmless on one that has ended.")
    async def stop_reply(self, info: Info, input: StopReplyInput) -> StopReplyPayload:
        context = info.context
        try:
            await context.services.replies.stop_reply(context.user_id, input.reply_id)
            reply = await context.services.conversations.message(context.user_id, input.reply_id)
        except DomainError as error:
            return StopReplyPayload(errors=[user_error(error)])
        return StopReplyPayload(reply=Message.of(reply), errors=[])


async def _made_again(
    context: Context, make: Callable[[str, AgainCommand], Awaitable[Sent]], command: AgainCommand
) -> RegenerateReplyPayload:
    try:
        sent = await make(context.user_id, command)
        context.services.queued(sent)
        payload = await _sent(context, sent)
    except DomainError as error:
        return RegenerateReplyPayload(errors=[user_error(error)])
    return RegenerateReplyPayload(
        conversation=payload.conversation, reply=payload.reply, replayed=payload.replayed, errors=[]
    )


async def _sent(context: Context, sent: Sent) -> SendMessagePayload:
    """What was stored, as it was committed; or as it stands, where more has happened since."""
    if sent.stored is not None:
        turn = sent.stored
        return SendMessagePayload(
            conversation=Conversation.of(turn.conversation),
            message=None if turn.message is None else Message.of(turn.message),
            reply=Message.of(turn.answer),
            errors=[],
        )
    service = context.services.conversations
    conversation = await service.get(context.user_id, sent.conversation_id)
    wanted = [message_id for message_id in (sent.message_id, sent.reply_id) if message_id]
    found = await service.messages(context.user_id, wanted)
    message = found.get(sent.message_id) if sent.message_id else None
    return SendMessagePayload(
        conversation=Conversation.of(conversation),
        message=None if message is None else Message.of(message),
        reply=Message.of(found[sent.reply_id]),
        replayed=sent.replayed,
        errors=[],
    )


async def _in_progress(context: Context, error: ReplyInProgress) -> UserError:
    try:
        reply = await context.services.conversations.message(context.user_id, error.reply_id)
    except NotFound as gone:
        return user_error(gone)
    return reply_in_progress(error, Message.of(reply))
