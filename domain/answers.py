"""Answers that are to be made: what is stored of one before its first word, with what it waits for and may spend.

A reply that waits for nobody takes the place that this process holds for it, else it is queued. Nothing here knows
what was asked for by whom, or how a reply is made.
"""

from dataclasses import replace

from domain.conversation_service import UNTITLED, in_conversation
from domain.conversations import (
    Change,
    Conversation,
    GenerationSettings,
    Message,
    Role,
    TitleSource,
    title_from,
)
from domain.limits import Allowances
from domain.places import Place
from domain.ports import Clock, Ids
from domain.prompting import Prompter
from domain.replies import Lease, Reply, ReplyStatus
from domain.storage import Turn, UnitOfWork


class Answers:
    def __init__(self, prompter: Prompter, allowances: Allowances, clock: Clock, ids: Ids) -> None:
        self._prompter = prompter
        self._allowances = allowances
        self._clock = clock
        self._ids = ids

    async def add_turn(
        self,
        work: UnitOfWork,
        conversation: Conversation,
        message: Message,
        settings: GenerationSettings,
        place: Place | None,
        *,
        begins: bool = False,
    ) -> Turn:
        """A user's message with a reply to it, at the end of a conversation that is held, or that begins with them."""
        untitled = conversation.title_source is TitleSource.FIRST_WORDS and conversation.title == UNTITLED
        titled = replace(conversation, title=title_from(message.text)) if untitled else conversation
        answer = self._answer(conversation, message.id, settings, None)
        return await self._add(work, titled, message, answer, place, begins=begins)

    async def add_reply(
        self,
        work: UnitOfWork,
        conversation: Conversation,
        parent_id: str | None,
        settings: GenerationSettings,
        instruction: str | None,
        place: Place | None,
    ) -> Turn:
        """Another reply to a message, in a conversation that is held."""
        answer = self._answer(conversation, parent_id, settings, instruction)
        return await self._add(work, conversation, None, answer, place)

    async def add_continued(
        self, work: UnitOfWork, conversation: Conversation, earlier: Message, settings: GenerationSettings
    ) -> Turn:
        """Another reply beside `earlier`, queued, that begins with what that one has."""
        instruction = earlier.reply.instruction if earlier.reply else None
        answer = self._answer(conversation, earlier.parent_id, settings, instruction)
        turn = await self._add(work, conversation, None, replace(answer, token_count=earlier.token_count), None)
        await work.log.begin(answer.id, earlier.parts)
        return turn

    async def _add(
        self,
        work: UnitOfWork,
        conversation: Conversation,
        message: Message | None,
        answer: Message,
        place: Place | None,
        *,
        begins: bool = False,
    ) -> Turn:
        reserved = await self._reserved(work, conversation, answer, message)
        parent_id = (message or answer).parent_id
        if place is not None and (begins or not await work.replies.unsettled_above(parent_id)):
            answer = _begun(answer)
            place.lease = _lease(answer, place.owner, conversation.user_id, reserved)
        turn = Turn(_ends_with(conversation, answer), message, answer, begins)
        for added in (message, answer) if message else (answer,):
            work.feed.add(conversation.user_id, Change.MESSAGE_ADDED, conversation.id, added.id)
        await work.turns.add(turn, reserved, place.owner if place is not None and place.lease is not None else None)
        return turn

    def _answer(
        self,
        conversation: Conversation,
        parent_id: str | None,
        settings: GenerationSettings,
        instruction: str | None,
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


def _begun(answer: Message) -> Message:
    """In its first attempt; the one event of its log says so."""
    reply = answer.reply
    assert reply is not None
    return replace(
        answer, cursor=1, reply=replace(reply, status=ReplyStatus.STREAMING, attempt=1, started_at=reply.queued_at)
    )


def _lease(answer: Message, owner: str, user_id: str, reserved_tokens: int) -> Lease:
    reply = answer.reply
    assert reply is not None
    return Lease(
        reply_id=reply.id,
        conversation_id=reply.conversation_id,
        user_id=user_id,
        attempt=reply.attempt,
        owner=owner,
        next_seq=2,
        settings=reply.settings,
        instruction=reply.instruction,
        reserved_tokens=reserved_tokens,
    )


def _ends_with(conversation: Conversation, answer: Message) -> Conversation:
    now = answer.created_at
    return replace(conversation, leaf_id=answer.id, updated_at=now, last_activity_at=now)
