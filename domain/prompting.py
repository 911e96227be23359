"""Fit a conversation into a model's token budget. All is pure but the Prompter, which reads the conversation.

The rule: the system prompt and the newest message always stay; then as many earlier messages as fit, newest first,
without gaps. An example with a window of 100 tokens, 20 kept for the answer, a system prompt of 10 and an overhead of
4 per message: 100 - 20 - (10 + 4) = 66 are left; messages of 30, 30 and 20 tokens (oldest first) cost 34, 34 and 24,
so the last two go in (58) and the oldest is dropped.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from domain.conversations import GenerationSettings, Message, ModelParams, Role
from domain.errors import ProviderError, ReplyErrorCode
from domain.models import Model, PromptMessage
from domain.ports import ChatModel, TokenCounter
from domain.replies import Lease
from domain.spoken import Said, said_in, weight_of
from domain.storage import UnitOfWork

MESSAGE_OVERHEAD = 4
"""Tokens that a message costs beside its text, as OpenAI's cookbook on counting tokens gives them for chats."""
ANSWER_SHARE = 4
"""Without maxTokens a quarter of the window, at most ANSWER_TOKENS, is kept free for the answer."""
ANSWER_TOKENS = 4_096
PRIMING = 3
"""Tokens with which every answer is primed, by the same cookbook."""
GOING_ON = 64
"""What asking to go on with an answer costs beside its text: at most two messages, one of them the request itself."""
LONG_TEXT = 4_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens for the prompt of one request. `history` is what is left for messages; None means without bound."""

    limit: int | None
    system_tokens: int
    history: int | None


@dataclass(frozen=True, slots=True)
class Prompt:
    messages: tuple[Said, ...]
    input_tokens: int
    dropped: int


async def count_tokens(counter: TokenCounter, model: str, text: str) -> int:
    """Count without holding up the event loop: long texts are counted in a thread."""
    if len(text) <= LONG_TEXT:
        return counter.count(model, text)
    return await asyncio.to_thread(counter.count, model, text)


async def count_said(counter: TokenCounter, model: str, said: Sequence[Said]) -> int:
    """The tokens of a message that is several to a model, but for the overhead that every message has."""
    text, messages = weight_of(said)
    return await count_tokens(counter, model, text) + MESSAGE_OVERHEAD * max(0, messages - 1)


def budget(model: Model, settings: GenerationSettings, system_tokens: int) -> Budget:
    if model.context_tokens is None:
        return Budget(None, system_tokens, None)
    default = min(model.context_tokens // ANSWER_SHARE, ANSWER_TOKENS)
    answer = settings.params.max_tokens or default
    limit = max(0, model.context_tokens - answer)
    cost = system_tokens + MESSAGE_OVERHEAD if settings.system_prompt else 0
    return Budget(limit, system_tokens, limit - cost)


def fit(
    history: Sequence[Message], settings: GenerationSettings, allowed: Budget, instruction: str | None = None
) -> Prompt:
    """The prompt for the answer to `history[-1]`; `history` is oldest first. Messages that say nothing are left out."""
    spoken = [(message, said) for message in history if (said := said_in(message.role, message.parts))]
    chosen: list[list[Said]] = []
    used = 0
    for message, said in reversed(spoken):
        cost = message.token_count + MESSAGE_OVERHEAD
        if chosen and allowed.history is not None and used + cost > allowed.history:
            break
        chosen.append(said)
        used += cost
    system = [PromptMessage(Role.SYSTEM, (settings.system_prompt,))] if settings.system_prompt else []
    wish = [PromptMessage(Role.SYSTEM, (instruction,))] if instruction else []
    spoken_messages = [each for said in reversed(chosen) for each in said]
    system_cost = allowed.system_tokens + MESSAGE_OVERHEAD if system else 0
    return Prompt((*system, *spoken_messages, *wish), used + system_cost, len(spoken) - len(chosen))


def most_tokens(input_tokens: int, params: ModelParams, *, going_on: bool) -> int:
    """The most that one request costs, counted as the model's own tokens are: where they are not known, about."""
    answer = params.max_tokens or ANSWER_TOKENS
    return input_tokens + PRIMING + (GOING_ON if going_on else 0) + answer


class Prompter:
    """Makes the prompt of a reply from what is stored."""

    def __init__(self, model: ChatModel, tokens: TokenCounter) -> None:
        self._model = model
        self._tokens = tokens

    async def prompt(self, work: UnitOfWork, lease: Lease, begun_tokens: int = 0) -> tuple[Model, Prompt]:
        """`begun_tokens` are those that the answer has beside what it may write itself.

        Raises ProviderError when the model is not offered any more.
        """
        model, allowed = await self._room(lease.settings, begun_tokens)
        history = await work.messages.newest(lease.reply_id, _bound(allowed), MESSAGE_OVERHEAD)
        prompt = fit(history, lease.settings, allowed, lease.instruction)
        return model, replace(prompt, input_tokens=prompt.input_tokens + await self._wish(model, lease.instruction))

    async def input_tokens(self, work: UnitOfWork, lease: Lease) -> int:
        """What the prompt of a first request cost, by our own count; 0 when the model is not offered any more."""
        try:
            _, prompt = await self.prompt(work, lease)
        except ProviderError:
            return 0
        return prompt.input_tokens

    async def most(
        self,
        work: UnitOfWork,
        last: Message,
        settings: GenerationSettings,
        instruction: str | None,
        begun_tokens: int,
    ) -> int:
        """The most that a first request for a reply to `last` costs, with the messages above that as they are now."""
        model, allowed = await self._room(settings, begun_tokens)
        history = await work.messages.weight(last.parent_id, last.token_count, _bound(allowed), MESSAGE_OVERHEAD)
        system = allowed.system_tokens + MESSAGE_OVERHEAD if settings.system_prompt else 0
        asked = history + system + await self._wish(model, instruction) + begun_tokens
        return most_tokens(asked, settings.params, going_on=begun_tokens > 0)

    async def _room(self, settings: GenerationSettings, begun_tokens: int) -> tuple[Model, Budget]:
        model = next((m for m in self._model.models() if m.name == settings.model), None)
        if model is None:
            raise ProviderError(
                ReplyErrorCode.PROVIDER_REJECTED,
                f"The model {settings.model!r} is no longer offered by this server; choose another one.",
                retryable=False,
            )
        system_tokens = await count_tokens(self._tokens, model.name, settings.system_prompt or "")
        allowed = budget(model, settings, system_tokens)
        if begun_tokens and allowed.history is not None:
            allowed = replace(allowed, history=max(0, allowed.history - begun_tokens))
        return model, allowed

    async def _wish(self, model: Model, instruction: str | None) -> int:
        return await count_tokens(self._tokens, model.name, instruction) + MESSAGE_OVERHEAD if instruction else 0


def _bound(allowed: Budget) -> int:
    return allowed.history if allowed.history is not None else 2**31
