"""What clients ask to be done with replies: send, edit, regenerate, stop.

Each is one unit of work: the conversation is the viewer's, a repeated idempotency key answers with the earlier
result, else the messages and a reply are stored and committed. The reply is STREAMING where it waits for nobody and
this process has a place for it, else QUEUED, and a bell is rung. Making it is the worker's business.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from domain.answers import Answers
from domain.conversation_service import ConversationService, in_conversation, owned
from domain.conversations import (
    Conversation,
    GenerationSettings,
    Message,
    MessagePart,
    PartKind,
    Role,
)
from domain.errors import (
    ContextTooLong,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    ReplyInProgress,
)
from domain.inputs import (
    ContinueReply,
    CreateConversation,
    EditMessage,
    OnBusy,
    RegenerateReply,
    Rules,
    SendMessage,
    fingerprint,
)
from domain.limits import Allowances
from domain.places import Place, Places
from domain.ports import Clock, Ids, Notifier, TokenCounter
from domain.prompting import MESSAGE_OVERHEAD, budget, count_tokens
from domain.replies import FinishReason, Reply, ReplyStatus
from domain.storage import KnownKey, Storage, Turn, UnitOfWork
from domain.streaming import ReplyStream
from domain.topics import QUEUE, STOP, reply_topic, user_topic

STOP_PATIENCE_SECONDS = 2.0
Command: TypeAlias = SendMessage | EditMessage | RegenerateReply | ContinueReply


@dataclass(frozen=True, slots=True)
class Sent:
    """The ids of what a command stored. `replayed`: an earlier use of its key had stored them.

    `stored` is all of it as it was committed, where that is known without asking.
    """

    conversation_id: str
    message_id: str | None
    reply_id: str
    replayed: bool = False
    stored: Turn | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A user's message that is ready to be stored."""

    text: str
    token_count: int
    metadata: Mapping[str, object]
    idempotency_key: str | None


class ReplyService:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        conversations: ConversationService,
        stream: ReplyStream,
        tokens: TokenCounter,
        answers: Answers,
        allowances: Allowances,
        clock: Clock,
        ids: Ids,
        rules: Rules,
        places: Places,
    ) -> None:
        self._places = places
        self._storage = storage
        self._notifier = notifier
        self._conversations = conversations
        self._stream = stream
        self._tokens = tokens
        self._answers = answers
        self._allowances = allowances
        self._clock = clock
        self._ids = ids
        self._rules = rules

    async def send_message(self, user_id: str, command: SendMessage) -> Sent:
        """Store a user's message and a reply to it that is to be made; a new conversation begins when none is named.

        Replies above it that are not settled are waited for, or stopped in the same unit of work, or a reason to raise
        ReplyInProgress, as `on_busy` says. That is decided while the conversation is held.
        """
        self._rules.check(command)
        existing = None
        if command.conversation_id is not None:
            existing = await self._conversations.get(user_id, command.conversation_id)
        seeds = await self._conversations.prepare(command.history, GenerationSettings())
        base = existing.settings if existing else GenerationSettings(system_prompt=seeds.system_prompt)
        settings = self._conversations.resolved(command.settings, base)
        tokens = await self._fitting(settings, command.text)
        draft = Draft(command.text, tokens, command.metadata, command.idempotency_key)
        stopped: list[str] = []

        async def store(work: UnitOfWork, place: Place | None) -> Sent:
            begins = command.conversation_id is None and not seeds.messages
            if command.conversation_id is not None:
                conversation = await owned(work, user_id, command.conversation_id, lock=True)
            elif begins:
                conversation = self._conversations.new(work, user_id, CreateConversation(), seeds)
            else:
                conversation = await self._conversations.start(work, user_id, CreateConversation(), seeds)
            if command.parent_id is not None:
                await in_conversation(work, user_id, conversation, command.parent_id, "parentId")
            parent_id = command.parent_id or conversation.leaf_id
            stopped.extend(await _make_way(work, parent_id, command.on_busy))
            said = self._said(conversation, parent_id, draft)
            return _sent(await self._answers.add_turn(work, conversation, said, settings, place, begins=begins))

        sent = await self._once(user_id, "sendMessage", command, store)
        if stopped:
            self._notifier.ring(STOP, *map(reply_topic, stopped))
        return sent

    async def edit_message(self, user_id: str, command: EditMessage) -> Sent:
        """Store another version of a user's message beside it, and a reply to that."""
        self._rules.check(command)
        original = await self._message(user_id, command.message_id, "messageId")
        if original.role is not Role.USER:
            raise InvalidInput("Only a user's message can be edited.", "messageId")
        conversation = await self._conversations.get(user_id, original.conversation_id)
        settings = self._conversations.resolved(command.settings, conversation.settings)
        tokens = await self._fitting(settings, command.text)
        draft = Draft(command.text, tokens, original.metadata, command.idempotency_key)

        async def store(work: UnitOfWork, place: Place | None) -> Sent:
            locked = await owned(work, user_id, original.conversation_id, lock=True)
            said = self._said(locked, original.parent_id, draft)
            return _sent(await self._answers.add_turn(work, locked, said, settings, place))

        return await self._once(user_id, "editMessage", command, store)

    async def regenerate_reply(self, user_id: str, command: RegenerateReply) -> Sent:
        """Have another reply made beside an earlier one."""
        self._rules.check(command)
        earlier = await self._message(user_id, command.reply_id, "replyId")
        if earlier.role is not Role.ASSISTANT or earlier.parent_id is None:
            raise InvalidInput("Only an assistant's answer to a message can be made again.", "replyId")
        conversation = await self._conversations.get(user_id, earlier.conversation_id)
        settings = self._conversations.resolved(command.settings, conversation.settings)

        async def store(work: UnitOfWork, place: Place | None) -> Sent:
            locked = await owned(work, user_id, earlier.conversation_id, lock=True)
            wish = command.instruction
            return _sent(await self._answers.add_reply(work, locked, earlier.parent_id, settings, wish, place))

        return await self._once(user_id, "regenerateReply", command, store)

    async def continue_reply(self, user_id: str, command: ContinueReply) -> Sent:
        """Queue another reply beside one that broke off; it begins with that one's text and goes on from its end.

        What it begins with does not count towards its limit. Raises InvalidInput for one that is whole or not settled.
        """
        self._rules.check(command)
        earlier = await self._message(user_id, command.reply_id, "replyId")
        if earlier.reply is None or not _broke_off(earlier.reply):
            raise InvalidInput("Only a reply that failed, was stopped or got too long can be continued.", "replyId")
        settings = self._conversations.resolved(GenerationSettings(), earlier.reply.settings)

        async def store(work: UnitOfWork, _place: Place | None) -> Sent:
            locked = await owned(work, user_id, earlier.conversation_id, lock=True)
            return replace(_sent(await self._answers.add_continued(work, locked, earlier, settings)), stored=None)

        return await self._once(user_id, "continueReply", command, store)

    async def stop_reply(self, user_id: str, reply_id: str) -> None:
        """Stop a queued or streaming reply and keep its text; returns when it has stopped. Harmless on any other.

        A queued reply is settled here and never reaches the model; a streaming one is flagged for its owner.
        """
        async with self._storage.write() as work:
            message = await work.messages.get(user_id, reply_id)
            if message is None or message.reply is None:
                raise NotFound("reply", reply_id, "replyId")
            await work.replies.request_stop(reply_id)
            await work.commit()
        self._notifier.ring(STOP, QUEUE, reply_topic(reply_id), user_topic(user_id))
        await self._stream.settled(reply_id, STOP_PATIENCE_SECONDS)

    # ── steps ──

    async def _once(
        self,
        user_id: str,
        operation: str,
        command: Command,
        store: Callable[[UnitOfWork, Place | None], Awaitable[Sent]],
    ) -> Sent:
        """One unit of work, done and counted at most once per key; then the reply begins or a bell rings."""
        key = command.idempotency_key
        with self._places.hold() as place:
            async with self._storage.write() as work:
                if key is not None:
                    known = await work.keys.reserve(user_id, operation, key, fingerprint(command))
                    if known is not None:
                        return _replayed(known, command)
                await self._allowances.count_send(work, user_id)
                sent = await store(work, place)
                if key is not None:
                    ids = {name: getattr(sent, name) for name in ("conversation_id", "message_id", "reply_id")}
                    await work.keys.keep(user_id, operation, key, ids)
                await work.commit()
        queued = place is None or place.lease is None
        self._notifier.ring(*((QUEUE,) if queued else ()), user_topic(user_id))
        return sent

    def _said(self, conversation: Conversation, parent_id: str | None, draft: Draft) -> Message:
        return Message(
            id=self._ids.new("msg"),
            conversation_id=conversation.id,
            parent_id=parent_id,
            role=Role.USER,
            created_at=self._clock.now(),
            parts=(MessagePart(0, PartKind.TEXT, draft.text),),
            token_count=draft.token_count,
            metadata=draft.metadata,
            idempotency_key=draft.idempotency_key,
        )

    async def _fitting(self, settings: GenerationSettings, text: str) -> int:
        """The message's tokens. Raises ContextTooLong when it cannot be sent even without any history."""
        model = self._conversations.model(settings.model)
        assert model is not None
        tokens = await count_tokens(self._tokens, model.name, text)
        system_tokens = await count_tokens(self._tokens, model.name, settings.system_prompt or "")
        allowed = budget(model, settings, system_tokens)
        if allowed.history is not None and allowed.limit is not None and tokens + MESSAGE_OVERHEAD > allowed.history:
            needed = tokens + MESSAGE_OVERHEAD + (allowed.limit - allowed.history)
            raise ContextTooLong(needed, allowed.limit)
        return tokens

    async def _message(self, user_id: str, message_id: str, field: str) -> Message:
        found = await self._conversations.messages(user_id, [message_id])
        if message_id not in found:
            raise NotFound("message", message_id, field)
        return found[message_id]


def _sent(turn: Turn) -> Sent:
    said_id = None if turn.message is None else turn.message.id
    return Sent(turn.conversation.id, said_id, turn.answer.id, stored=turn)


def _replayed(known: KnownKey, command: Command) -> Sent:
    if known.fingerprint != fingerprint(command):
        raise IdempotencyMismatch
    result = known.result
    return Sent(result["conversation_id"] or "", result["message_id"], result["reply_id"] or "", replayed=True)


def _broke_off(reply: Reply) -> bool:
    cut_short = (FinishReason.LENGTH, FinishReason.TOOL_LIMIT)
    return reply.status in (ReplyStatus.FAILED, ReplyStatus.STOPPED) or reply.finish_reason in cut_short


async def _make_way(work: UnitOfWork, parent_id: str | None, on_busy: OnBusy) -> list[str]:
    """Deal with the unsettled replies at or above a message, in a conversation that is held. Those that now stop."""
    if on_busy is OnBusy.QUEUE:
        return []
    unsettled = await work.replies.unsettled_above(parent_id)
    if unsettled and on_busy is OnBusy.REJECT:
        raise ReplyInProgress(unsettled[0])
    for reply_id in sorted(unsettled):
        await work.replies.request_stop(reply_id)
    return unsettled
