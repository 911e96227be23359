"""What clients ask to be done with replies: send, edit, regenerate, stop.

Each is one unit of work: the conversation is the viewer's, a repeated idempotency key answers with the earlier
result, else the messages and a QUEUED reply are stored, committed, and only then the bell is rung. Making the reply
is the worker's business.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from domain.conversation_service import UNTITLED, ConversationService, in_conversation, owned
from domain.conversations import (
    Change,
    Conversation,
    GenerationSettings,
    Message,
    MessagePart,
    PartKind,
    Role,
    TitleSource,
    title_from,
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
from domain.ports import Clock, Ids, Notifier, TokenCounter
from domain.prompting import MESSAGE_OVERHEAD, Prompter, budget, count_tokens
from domain.replies import FinishReason, Reply, ReplyStatus
from domain.storage import Storage, Turn, UnitOfWork
from domain.streaming import ReplyStream
from domain.topics import QUEUE, STOP, reply_topic, user_topic

STOP_PATIENCE_SECONDS = 2.0


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
        prompter: Prompter,
        allowances: Allowances,
        clock: Clock,
        ids: Ids,
        rules: Rules,
    ) -> None:
        self._storage = storage
        self._notifier = notifier
        self._conversations = conversations
        self._stream = stream
        self._tokens = tokens
        self._prompter = prompter
        self._allowances = allowances
        self._clock = clock
        self._ids = ids
        self._rules = rules

    async def send_message(self, user_id: str, command: SendMessage) -> Sent:
        """Store a user's message and queue the reply to it; a new conversation begins when none is named.

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

        async def store(work: UnitOfWork) -> Sent:
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
            return await self._add_turn(work, conversation, said, settings, begins=begins)

        sent = await self._once(user_id, "sendMessage", command, store)
        if stopped:
            self._notifier.ring(STOP, *map(reply_topic, stopped))
        return sent

    async def edit_message(self, user_id: str, command: EditMessage) -> Sent:
        """Store another version of a user's message beside it, and queue a reply to that."""
        self._rules.check(command)
        original = await self._message(user_id, command.message_id, "messageId")
        if original.role is not Role.USER:
            raise InvalidInput("Only a user's message can be edited.", "messageId")
        conversation = await self._conversations.get(user_id, original.conversation_id)
        settings = self._conversations.resolved(command.settings, conversation.settings)
        tokens = await self._fitting(settings, command.text)
        draft = Draft(command.text, tokens, original.metadata, command.idempotency_key)

        async def store(work: UnitOfWork) -> Sent:
            locked = await owned(work, user_id, original.conversation_id, lock=True)
            return await self._add_turn(work, locked, self._said(locked, original.parent_id, draft), settings)

        return await self._once(user_id, "editMessage", command, store)

    async def regenerate_reply(self, user_id: str, command: RegenerateReply) -> Sent:
        """Queue another reply beside an earlier one."""
        self._rules.check(command)
        earlier = await self._message(user_id, command.reply_id, "replyId")
        if earlier.role is not Role.ASSISTANT or earlier.parent_id is None:
            raise InvalidInput("Only an assistant's answer to a message can be made again.", "replyId")
        conversation = await self._conversations.get(user_id, earlier.conversation_id)
        settings = self._conversations.resolved(command.settings, conversation.settings)

        async def store(work: UnitOfWork) -> Sent:
            locked = await owned(work, user_id, earlier.conversation_id, lock=True)
            return await self._add_reply(work, locked, earlier.parent_id, settings, command.instruction)

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
        instruction = earlier.reply.instruction

        async def store(work: UnitOfWork) -> Sent:
            locked = await owned(work, user_id, earlier.conversation_id, lock=True)
            return await self._add_reply(work, locked, earlier.parent_id, settings, instruction, earlier)

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
        command: SendMessage | EditMessage | RegenerateReply | ContinueReply,
        store: Callable[[UnitOfWork], Awaitable[Sent]],
    ) -> Sent:
        """One unit of work, done and counted at most once per idempotency key; then the bell."""
        key = command.idempotency_key
        async with self._storage.write() as work:
            if key is not None:
                known = await work.keys.reserve(user_id, operation, key, fingerprint(command))
                if known is not None and known.fingerprint != fingerprint(command):
                    raise IdempotencyMismatch
                if known is not None:
                    result = known.result
                    return Sent(
                        result["conversation_id"] or "", result["message_id"], result["reply_id"] or "", replayed=True
                    )
            await self._allowances.count_send(work, user_id)
            sent = await store(work)
            if key is not None:
                ids = {name: getattr(sent, name) for name in ("conversation_id", "message_id", "reply_id")}
                await work.keys.keep(user_id, operation, key, ids)
            await work.commit()
        self._notifier.ring(QUEUE, user_topic(user_id))
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

    async def _add_turn(
        self,
        work: UnitOfWork,
        conversation: Conversation,
        message: Message,
        settings: GenerationSettings,
        *,
        begins: bool = False,
    ) -> Sent:
        """A user's message with a reply to it, at the end of a conversation that is held, or that begins with them."""
        untitled = conversation.title_source is TitleSource.FIRST_WORDS and conversation.title == UNTITLED
        title = title_from(message.text) if untitled else conversation.title
        answer = self._answer(conversation, message.id, settings, None)
        turn = Turn(_ends_with(replace(conversation, title=title), answer), message, answer, begins)
        reserved = await self._reserved(work, conversation, answer, message)
        work.feed.add(conversation.user_id, Change.MESSAGE_ADDED, conversation.id, message.id)
        work.feed.add(conversation.user_id, Change.MESSAGE_ADDED, conversation.id, answer.id)
        await work.turns.add(turn, reserved)
        return Sent(conversation.id, message.id, answer.id, stored=turn)

    async def _add_reply(
        self,
        work: UnitOfWork,
        conversation: Conversation,
        parent_id: str | None,
        settings: GenerationSettings,
        instruction: str | None,
        beginning: Message | None = None,
    ) -> Sent:
        """Another reply to a message. It is empty, or begins with what an earlier reply has."""
        answer = self._answer(conversation, parent_id, settings, instruction)
        if beginning is not None:
            answer = replace(answer, token_count=beginning.token_count)
        turn = Turn(_ends_with(conversation, answer), None, answer)
        reserved = await self._reserved(work, conversation, answer, None)
        work.feed.add(conversation.user_id, Change.MESSAGE_ADDED, conversation.id, answer.id)
        await work.turns.add(turn, reserved)
        if beginning is None:
            return Sent(conversation.id, None, answer.id, stored=turn)
        await work.log.begin(answer.id, beginning.parts)
        return Sent(conversation.id, None, answer.id)

    def _answer(
        self, conversation: Conversation, parent_id: str | None, settings: GenerationSettings, instruction: str | None
    ) -> Message:
        """An assistant message without content, with its QUEUED reply."""
        now, reply_id = self._clock.now(), self._ids.new("msg")
        reply = Reply(
            id=reply_id,
            conversation_id=conversation.id,
            status=ReplyStatus.QUEUED,
            settings=settings,
            instruction=instruction,
            behind_id=None,
            attempt=0,
            rescues=0,
            requests=0,
            stop_requested=False,
            queued_at=now,
        )
        return Message(
            id=reply_id,
            conversation_id=conversation.id,
            parent_id=parent_id,
            role=Role.ASSISTANT,
            created_at=now,
            parts=(),
            token_count=0,
            metadata={},
            reply=reply,
            cursor=0,
        )

    async def _reserved(
        self, work: UnitOfWork, conversation: Conversation, answer: Message, last: Message | None
    ) -> int:
        """What the reply has to reserve, with the messages above it as they are now; `last` is the one that is new."""
        tokens, reply, user_id = 0, answer.reply, conversation.user_id
        if self._allowances.limits_tokens_of(user_id) and reply is not None:
            last = last or await in_conversation(work, user_id, conversation, answer.parent_id or "", "replyId")
            tokens = await self._prompter.most(work, last, reply.settings, reply.instruction, answer.token_count)
        return await self._allowances.reserve(work, user_id, tokens)

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


def _ends_with(conversation: Conversation, answer: Message) -> Conversation:
    now = answer.created_at
    return replace(conversation, leaf_id=answer.id, updated_at=now, last_activity_at=now)


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
