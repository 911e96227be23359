"""What clients ask to be done with conversations: start, read, rename, delete.

Ownership is checked here, for every object: absent, deleted and foreign give the same NotFound.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from domain.accounts import User
from domain.conversations import (
    Change,
    Conversation,
    GenerationSettings,
    Message,
    MessagePart,
    Page,
    PageRequest,
    PartKind,
    Role,
    SeedMessage,
    TitleSource,
    title_from,
)
from domain.errors import IdempotencyMismatch, InvalidInput, ModelUnavailable, NotFound, ToolUnavailable
from domain.inputs import CreateConversation, Rules, fingerprint
from domain.limits import Allowances
from domain.models import Model
from domain.ports import ChatModel, Clock, Ids, Notifier, TokenCounter
from domain.prompting import count_tokens
from domain.storage import Storage, UnitOfWork
from domain.tools import Toolbox
from domain.topics import QUEUE, STOP, reply_topic, user_topic

UNTITLED = "New conversation"
OPERATION = "createConversation"


@dataclass(frozen=True, slots=True)
class Seeds:
    """A history ready to be stored: its system prompt, and its messages with their token counts."""

    system_prompt: str | None
    messages: tuple[tuple[SeedMessage, int], ...]

    @property
    def first_words(self) -> str | None:
        spoken = (" ".join(seed.texts) for seed, _ in self.messages if seed.role is Role.USER)
        first = next(spoken, None)
        return None if first is None else title_from(first)


class ConversationService:
    def __init__(
        self,
        storage: Storage,
        notifier: Notifier,
        model: ChatModel,
        tokens: TokenCounter,
        allowances: Allowances,
        clock: Clock,
        ids: Ids,
        rules: Rules,
        defaults: GenerationSettings,
        toolbox: Toolbox,
    ) -> None:
        self._storage = storage
        self._notifier = notifier
        self._model = model
        self._tokens = tokens
        self._allowances = allowances
        self._clock = clock
        self._ids = ids
        self._rules = rules
        self.defaults = defaults
        self._toolbox = toolbox

    # ── reading ──

    async def viewer(self, user_id: str) -> User | None:
        async with self._storage.peek() as work:
            return await work.users.get(user_id)

    async def get(self, user_id: str, conversation_id: str) -> Conversation:
        async with self._storage.peek() as work:
            return await owned(work, user_id, conversation_id)

    async def many(self, user_id: str, conversation_ids: Sequence[str]) -> dict[str, Conversation]:
        """Those of the conversations that are there and the user's, by id."""
        async with self._storage.peek() as work:
            return await work.conversations.get_many(user_id, conversation_ids)

    async def page(self, user_id: str, request: PageRequest) -> Page[Conversation]:
        async with self._storage.peek() as work:
            return await work.conversations.page(user_id, request)

    async def count(self, user_id: str) -> int:
        async with self._storage.peek() as work:
            return await work.conversations.count(user_id)

    async def message(self, user_id: str, message_id: str) -> Message:
        found = await self.messages(user_id, [message_id])
        if message_id not in found:
            raise NotFound("message", message_id)
        return found[message_id]

    async def messages(self, user_id: str, message_ids: Sequence[str]) -> dict[str, Message]:
        """Those of the messages that are the user's, by id."""
        async with self._storage.peek() as work:
            return await work.messages.get_many(user_id, message_ids)

    async def path(
        self, user_id: str, conversation_id: str, leaf_id: str | None, request: PageRequest
    ) -> Page[Message]:
        """A page of the chosen path, or of the one that ends with `leaf_id`."""
        async with self._storage.read() as work:
            conversation = await owned(work, user_id, conversation_id)
            end = leaf_id or conversation.leaf_id
            if end is None:
                return Page((), has_next=False, has_previous=False)
            if leaf_id is not None:
                await in_conversation(work, user_id, conversation, leaf_id, "leafId")
            return await work.messages.path(conversation_id, end, request)

    async def all_messages(self, user_id: str, conversation_id: str, request: PageRequest) -> Page[Message]:
        async with self._storage.read() as work:
            await owned(work, user_id, conversation_id)
            return await work.messages.all(conversation_id, request)

    async def children(self, keys: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], list[str]]:
        async with self._storage.peek() as work:
            return await work.messages.children(keys)

    async def active_replies(self, user_id: str, conversation_ids: Sequence[str]) -> dict[str, list[Message]]:
        """Those that have not ended in each of the conversations, as far as they are the user's."""
        async with self._storage.read() as work:
            ids = await work.replies.unsettled(*conversation_ids)
            found = await work.messages.get_many(user_id, ids) if ids else {}
        active: dict[str, list[Message]] = {conversation_id: [] for conversation_id in conversation_ids}
        for message in (found[reply_id] for reply_id in ids if reply_id in found):
            active[message.conversation_id].append(message)
        return active

    def models(self) -> Sequence[Model]:
        return self._model.models()

    def model(self, name: str | None) -> Model | None:
        return next((model for model in self._model.models() if model.name == name), None)

    # ── changing ──

    async def create(self, user_id: str, command: CreateConversation) -> tuple[str, bool]:
        """The conversation's id, and whether an earlier use of the key had made it. Atomic. It counts as a send."""
        self._rules.check(command)
        self.resolved(command.settings, GenerationSettings())
        seeds = await self.prepare(command.history, command.settings)
        async with self._storage.write() as work:
            key = command.idempotency_key
            if key is not None:
                known = await work.keys.reserve(user_id, OPERATION, key, fingerprint(command))
                if known is not None and known.fingerprint != fingerprint(command):
                    raise IdempotencyMismatch
                if known is not None:
                    return known.result["conversation_id"] or "", True
            await self._allowances.count_send(work, user_id)
            conversation = await self.start(work, user_id, command, seeds)
            if key is not None:
                await work.keys.keep(user_id, OPERATION, key, {"conversation_id": conversation.id})
            await work.commit()
        self._notifier.ring(user_topic(user_id))
        return conversation.id, False

    async def rename(self, user_id: str, conversation_id: str, title: str | None) -> None:
        """None lets the server choose: the first words that were said."""
        if title is not None:
            self._rules.title(title)
        async with self._storage.write() as work:
            conversation = await owned(work, user_id, conversation_id, lock=True)
            renamed = replace(
                conversation,
                title=title if title is not None else await _first_words(work, conversation_id),
                title_source=TitleSource.USER if title is not None else TitleSource.FIRST_WORDS,
                updated_at=self._clock.now(),
            )
            await work.conversations.update(renamed)
            work.feed.add(user_id, Change.CONVERSATION_UPDATED, conversation_id)
            await work.commit()
        self._notifier.ring(user_topic(user_id))

    async def delete(self, user_id: str, conversation_id: str) -> None:
        """Its live replies stop and their streams end; nobody finds it any more. Atomic."""
        async with self._storage.write() as work:
            await owned(work, user_id, conversation_id, lock=True)
            live = await work.replies.unsettled(conversation_id)
            for reply_id in live:
                await work.replies.request_stop(reply_id)
            await work.conversations.delete(conversation_id, self._clock.now())
            work.feed.add(user_id, Change.CONVERSATION_DELETED, conversation_id)
            await work.commit()
        self._notifier.ring(user_topic(user_id), STOP, QUEUE, *(reply_topic(reply_id) for reply_id in live))

    # ── parts of other commands ──

    def resolved(self, given: GenerationSettings, conversation: GenerationSettings) -> GenerationSettings:
        """Every level folded in. Tools that only a level below names are left out where the model cannot call any.

        Raises ModelUnavailable, and ToolUnavailable for tools that are `given` and cannot be offered.
        """
        settings = given.over(conversation).over(self.defaults)
        model = self.model(settings.model)
        if model is None:
            raise ModelUnavailable(settings.model or "")
        unknown = next((name for name in given.tools or () if self._toolbox.get(name) is None), None)
        if unknown is not None:
            raise ToolUnavailable(f"There is no tool {unknown!r} here now; the `tools` query lists those that are.")
        if given.tools and not model.calls_tools:
            raise ToolUnavailable(f"The model {model.name!r} cannot call tools; choose another model, or no tools.")
        return settings if model.calls_tools else replace(settings, tools=())

    async def prepare(self, history: Sequence[SeedMessage], settings: GenerationSettings) -> Seeds:
        """Count the tokens of a history, before any transaction begins."""
        system = next((seed for seed in history if seed.role is Role.SYSTEM), None)
        if system is not None and settings.system_prompt is not None:
            raise InvalidInput("Give either a system message or `settings.systemPrompt`, not both.", "history")
        model = settings.model or self.defaults.model or ""
        spoken = [seed for seed in history if seed.role is not Role.SYSTEM]
        counted = []
        for seed in spoken:
            counted.append((seed, await count_tokens(self._tokens, model, "".join(seed.texts))))
            await asyncio.sleep(0)
        return Seeds(None if system is None else "\n\n".join(system.texts), tuple(counted))

    async def start(self, work: UnitOfWork, user_id: str, command: CreateConversation, seeds: Seeds) -> Conversation:
        """Store a new conversation with its history, inside the caller's unit of work."""
        conversation = self.new(work, user_id, command, seeds)
        await work.conversations.add(conversation)
        said = self._said(conversation.id, seeds, conversation.created_at)
        if said:
            await work.messages.add(*said)
            conversation = replace(conversation, leaf_id=said[-1].id)
            await work.conversations.update(conversation)
        return conversation

    def new(self, work: UnitOfWork, user_id: str, command: CreateConversation, seeds: Seeds) -> Conversation:
        """A conversation that the caller stores in this unit of work, without its history; its user is told of it."""
        now = self._clock.now()
        settings = command.settings
        if seeds.system_prompt is not None:
            settings = replace(settings, system_prompt=seeds.system_prompt)
        conversation = Conversation(
            id=self._ids.new("conv"),
            user_id=user_id,
            title=command.title or seeds.first_words or UNTITLED,
            title_source=TitleSource.USER if command.title else TitleSource.FIRST_WORDS,
            created_at=now,
            updated_at=now,
            last_activity_at=now,
            settings=settings,
            metadata=command.metadata,
            leaf_id=None,
        )
        work.feed.add(user_id, Change.CONVERSATION_CREATED, conversation.id)
        return conversation

    def _said(self, conversation_id: str, seeds: Seeds, now: datetime) -> list[Message]:
        """A history as a chain of messages."""
        said: list[Message] = []
        for seed, token_count in seeds.messages:
            message = Message(
                id=self._ids.new("msg"),
                conversation_id=conversation_id,
                parent_id=said[-1].id if said else None,
                role=seed.role,
                created_at=seed.created_at or now,
                parts=tuple(MessagePart(i, PartKind.TEXT, text) for i, text in enumerate(seed.texts)),
                token_count=token_count,
                metadata={},
            )
            said.append(message)
        return said


async def owned(work: UnitOfWork, user_id: str, conversation_id: str, *, lock: bool = False) -> Conversation:
    conversation = await work.conversations.get(user_id, conversation_id, lock=lock)
    if conversation is None:
        raise NotFound("conversation", conversation_id, "conversationId")
    return conversation


async def in_conversation(
    work: UnitOfWork, user_id: str, conversation: Conversation, message_id: str, field: str
) -> Message:
    message = await work.messages.get(user_id, message_id)
    if message is None:
        raise NotFound("message", message_id, field)
    if message.conversation_id != conversation.id:
        raise InvalidInput("This message belongs to another conversation.", field)
    return message


async def _first_words(work: UnitOfWork, conversation_id: str) -> str:
    page = await work.messages.all(conversation_id, PageRequest(first=10))
    return next((title_from(m.text) for m in page.items if m.role is Role.USER), UNTITLED)
