"""The making of one reply: history -> prompt -> model -> log, until it ends in one of three ways.

The model's chunks become events of the reply's tail; the end becomes an Outcome that is committed together with the
last events. Whoever reads the reply, if anybody, is unknown here, and so are other replies.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from domain.conversations import PartKind
from domain.errors import ProviderError, ReplyErrorCode
from domain.events import PartAdded, Retrying, TextDelta
from domain.journal import Halt, Journal, Tail
from domain.models import (
    ChatChunk,
    ChatRequest,
    FinishChunk,
    Model,
    ReasoningChunk,
    RequestStarted,
    RetryChunk,
    TextChunk,
)
from domain.ports import ChatModel, Clock, Storage, Telemetry, TokenCounter
from domain.prompting import MESSAGE_OVERHEAD, Prompt, budget, count_tokens, fit
from domain.replies import (
    INTERNAL,
    INTERRUPTED,
    STORAGE_FAILED,
    FinishReason,
    Lease,
    Outcome,
    ReplyError,
    ReplyStatus,
    Usage,
)


@dataclass(slots=True)
class Notes:
    """What is known of a running attempt, for the outcome at whatever moment it ends."""

    input_tokens: int = 0
    requests: int = 0
    next_request_at: datetime | None = None
    accepted: bool = False
    """Whether a request got as far as costing tokens."""
    request_id: str | None = None
    first_token_at: datetime | None = None
    reasoning_from: datetime | None = None
    reasoning_ms: int | None = None


class ReplyGenerator:
    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        model: ChatModel,
        tokens: TokenCounter,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._storage = storage
        self._journal = journal
        self._model = model
        self._tokens = tokens
        self._clock = clock
        self._telemetry = telemetry

    async def run(self, lease: Lease) -> bool:
        """Make the reply and store its end. True when that is committed, False when the lease was lost or given up."""
        tail = self._journal.open(lease)
        notes = Notes()
        answering = asyncio.create_task(self._answer(lease, tail, notes))
        tail.bind(answering)
        try:
            outcome = await answering
        except asyncio.CancelledError:
            if tail.halt is None:
                raise
            outcome = await self._halted(tail, notes)
        except ProviderError as error:
            self._telemetry.provider_failed(lease, error)
            outcome = await self._failed(tail, notes, ReplyError.from_provider(error))
        except Exception as error:
            self._telemetry.reply_crashed(lease.reply_id, error)
            outcome = await self._failed(tail, notes, INTERNAL)
        if tail.halt is Halt.LOST or not await tail.settle(outcome):
            return False
        self._telemetry.reply_settled(lease, outcome)
        return True

    async def _answer(self, lease: Lease, tail: Tail, notes: Notes) -> Outcome:
        model, prompt = await self._prompt(lease)
        notes.input_tokens = prompt.input_tokens
        request = ChatRequest(model.name, prompt.messages, lease.settings.params, lease.reply_id, lease.conversation_id)
        writer = PartWriter(tail, notes, self._clock)
        notes.requests = 1
        finish: FinishChunk | None = None
        async with aclosing(self._model.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, FinishChunk):
                    finish = chunk
                else:
                    writer.write(chunk)
                    await tail.room()
        assert finish is not None, "the ChatModel port promises a FinishChunk"
        writer.close_reasoning()
        outcome = await self._outcome(tail, notes, ReplyStatus.COMPLETE, finish.finish_reason)
        return replace(
            outcome,
            usage=finish.usage or outcome.usage,
            response_model=finish.response_model,
            completion_id=finish.completion_id,
        )

    async def _prompt(self, lease: Lease) -> tuple[Model, Prompt]:
        settings = lease.settings
        model = next((m for m in self._model.models() if m.name == settings.model), None)
        if model is None:
            raise ProviderError(
                ReplyErrorCode.PROVIDER_REJECTED,
                f"The model {settings.model!r} is no longer offered by this server; choose another one.",
                retryable=False,
            )
        system_tokens = await count_tokens(self._tokens, model.name, settings.system_prompt or "")
        allowed = budget(model, settings, system_tokens)
        async with self._storage.read() as work:
            room = allowed.history if allowed.history is not None else 2**31
            history = await work.messages.newest(lease.reply_id, room, MESSAGE_OVERHEAD)
        return model, fit(history, settings, allowed, lease.instruction)

    async def _halted(self, tail: Tail, notes: Notes) -> Outcome:
        if tail.halt is Halt.STOP:
            return await self._outcome(tail, notes, ReplyStatus.STOPPED, FinishReason.STOPPED_BY_USER)
        return await self._failed(tail, notes, STORAGE_FAILED if tail.halt is Halt.STORAGE else INTERRUPTED)

    async def _failed(self, tail: Tail, notes: Notes, error: ReplyError) -> Outcome:
        return replace(await self._outcome(tail, notes, ReplyStatus.FAILED, FinishReason.ERROR), error=error)

    async def _outcome(self, tail: Tail, notes: Notes, status: ReplyStatus, reason: FinishReason) -> Outcome:
        """The end of an attempt with our own count of its tokens, flagged as an estimate."""
        token_count = await count_tokens(self._tokens, tail.lease.settings.model or "", tail.text_so_far())
        return Outcome(
            status,
            reason,
            usage=Usage(notes.input_tokens if notes.accepted else 0, token_count, estimated=True),
            requests=notes.requests - (notes.next_request_at is not None and self._clock.now() < notes.next_request_at),
            request_id=notes.request_id,
            first_token_at=notes.first_token_at,
            reasoning_ms=notes.reasoning_ms,
            token_count=token_count,
        )


class PartWriter:
    """Turns chunks into events: a part begins with the first chunk of another kind than the one before."""

    def __init__(self, tail: Tail, notes: Notes, clock: Clock) -> None:
        self._tail = tail
        self._notes = notes
        self._clock = clock
        self._index = -1
        self._kind: PartKind | None = None

    def write(self, chunk: ChatChunk) -> None:
        match chunk:
            case TextChunk(text):
                self._append(PartKind.TEXT, text)
            case ReasoningChunk(text):
                self._append(PartKind.REASONING, text)
            case RequestStarted(request_id):
                self._notes.accepted = True
                self._notes.next_request_at = None
                self._notes.request_id = request_id
            case RetryChunk(delay_ms):
                self._notes.requests += 1
                self._notes.next_request_at = self._clock.now() + timedelta(milliseconds=delay_ms)
                self._tail.append(Retrying(self._notes.requests, delay_ms))
            case _:
                pass

    def _append(self, kind: PartKind, text: str) -> None:
        if kind is not self._kind:
            self._begin(kind)
        self._tail.append(TextDelta(self._index, text))

    def _begin(self, kind: PartKind) -> None:
        now = self._clock.now()
        if self._notes.first_token_at is None:
            self._notes.first_token_at = now
        self.close_reasoning()
        if kind is PartKind.REASONING:
            self._notes.reasoning_from = now
        self._index += 1
        self._kind = kind
        self._tail.append(PartAdded(self._index, kind))

    def close_reasoning(self) -> None:
        if self._notes.reasoning_from is not None and self._kind is PartKind.REASONING:
            elapsed = self._clock.now() - self._notes.reasoning_from
            self._notes.reasoning_ms = round(elapsed.total_seconds() * 1000)
            self._notes.reasoning_from = None
