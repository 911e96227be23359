"""The making of one reply: history -> prompt -> model -> log, until it ends in one of three ways or is handed over.

The model's chunks become events of the reply's tail; the end becomes an Outcome that is committed together with the
last events. What was shown once is never taken back: an attempt that finds some of the text written already, and a
request after one that was cut, go on from its end. Whoever reads the reply, if anybody, is unknown here, and so are
other replies.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from domain.conversations import PartKind
from domain.errors import ProviderError, QuotaExceeded, StorageError, Unavailable
from domain.events import LoggedEvent, PartAdded, Retrying, TextDelta, folded, text_in
from domain.journal import STORAGE_PATIENCE_SECONDS, Halt, Journal, Tail
from domain.limits import Allowances, OutputBound
from domain.models import (
    ChatChunk,
    ChatRequest,
    FinishChunk,
    ReasoningChunk,
    RequestStarted,
    RetryChunk,
    TextChunk,
)
from domain.ports import ChatModel, Clock, Telemetry, TokenCounter
from domain.prompting import ANSWER_TOKENS, Prompter, count_tokens, most_tokens
from domain.replies import (
    INTERNAL,
    INTERRUPTED,
    STORAGE_FAILED,
    FinishReason,
    HandOver,
    Lease,
    Outcome,
    Recovery,
    ReplyError,
    ReplyStatus,
    Usage,
)
from domain.seam import Seam
from domain.storage import WHOLE_LOG, Storage, UnitOfWork

Found = TypeVar("Found")
Unit = Callable[[], AbstractAsyncContextManager[UnitOfWork]]
MAX_CUTS = 2
"""So often an answer that was cut is asked for again in one attempt."""
CUT_PAUSE_SECONDS = 1.0
"""Before the first time; doubled before the next. What the endpoint asks for rules, up to the most."""
LONGEST_PAUSE_SECONDS = 30.0
READ_PAUSE_SECONDS = 0.25
READS_AT_ONCE = 2
"""Many replies that begin together must not take every connection from the journal."""


@dataclass(slots=True)
class Notes:
    """What is known of a running attempt, for the outcome at whatever moment it ends."""

    begun: str = ""
    """The text of the answer that the reply began with, as it continues another."""
    input_tokens: int = 0
    requests: int = 0
    cuts: int = 0
    spent: Usage = field(default_factory=Usage)
    """Of the requests that were cut."""
    reserved: int = 0
    """Of the user's budget, for the whole attempt; 0 where nothing is."""
    written: list[str] = field(default_factory=list)
    """What the running request has answered, reasoning too."""
    asked: bool = False
    """Whether a request runs."""
    next_request_at: datetime | None = None
    accepted: bool = False
    """Whether the running request got as far as costing tokens."""
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
        prompter: Prompter,
        allowances: Allowances,
        clock: Clock,
        telemetry: Telemetry,
        recovery: Recovery,
    ) -> None:
        self._storage = storage
        self._journal = journal
        self._model = model
        self._tokens = tokens
        self._prompter = prompter
        self._allowances = allowances
        self._clock = clock
        self._telemetry = telemetry
        self._recovery = recovery
        self._reading = asyncio.Semaphore(READS_AT_ONCE)

    async def run(self, lease: Lease) -> bool:
        """Make the reply and store its end. True when that is committed, False when the lease was lost or given up."""
        log = [] if lease.fresh else await self._log(lease)
        tail = self._journal.open(lease, folded(log))
        notes = Notes(begun=text_in(log, attempt=0), reserved=lease.reserved_tokens)
        answering = asyncio.create_task(self._answer(lease, tail, notes))
        tail.bind(answering)
        outcome: Outcome | HandOver
        try:
            outcome = await answering
        except asyncio.CancelledError:
            if tail.halt is None:
                raise
            outcome = await self._halted(tail, notes)
        except ProviderError as error:
            self._telemetry.provider_failed(lease, error)
            outcome = await self._failed(tail, notes, ReplyError.from_provider(error))
        except QuotaExceeded as error:
            outcome = await self._failed(tail, notes, ReplyError.from_quota(error, self._clock.now()))
        except (StorageError, Unavailable):
            outcome = await self._failed(tail, notes, STORAGE_FAILED)
        except Exception as error:
            self._telemetry.reply_crashed(lease.reply_id, error)
            outcome = await self._failed(tail, notes, INTERNAL)
        if tail.halt is Halt.LOST or not await tail.settle(outcome):
            return False
        if isinstance(outcome, Outcome):
            self._telemetry.reply_settled(lease, outcome)
        return True

    # ── asking ──

    async def _answer(self, lease: Lease, tail: Tail, notes: Notes) -> Outcome:
        writer = PartWriter(tail, notes, self._clock)
        while True:
            try:
                finish = await self._ask(lease, tail, notes, writer)
                break
            except ProviderError as error:
                if not self._goes_on(tail, notes, error):
                    raise
                self._telemetry.provider_failed(lease, error)
                await self._pause(tail, notes, error)
        outcome = await self._outcome(tail, notes, ReplyStatus.COMPLETE, finish.finish_reason)
        return replace(
            outcome,
            usage=outcome.usage if finish.usage is None else notes.spent + finish.usage,
            response_model=finish.response_model,
            completion_id=finish.completion_id,
        )

    async def _ask(self, lease: Lease, tail: Tail, notes: Notes, writer: "PartWriter") -> FinishChunk:
        """One request, from the end of what is there already."""
        unfinished = tail.text_so_far()
        request = await self._request(lease, unfinished, notes)
        await self._afford(tail, notes, request)
        notes.requests += 1
        notes.asked = True
        writer.begin(unfinished)
        finish: FinishChunk | None = None
        most = request.params.max_tokens or ANSWER_TOKENS
        bound = OutputBound(self._tokens, request.model, most) if notes.reserved else None
        async with aclosing(self._model.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, FinishChunk):
                    finish = chunk
                    continue
                writer.write(chunk)
                await tail.room()
                if bound and isinstance(chunk, TextChunk | ReasoningChunk) and await bound.passed(chunk.text):
                    finish = FinishChunk(FinishReason.LENGTH, None, None, None)
                    break
        assert finish is not None, "the ChatModel port promises a FinishChunk"
        writer.end()
        return finish

    async def _request(self, lease: Lease, unfinished: str, notes: Notes) -> ChatRequest:
        name = lease.settings.model or ""
        shown = await count_tokens(self._tokens, name, unfinished)
        begun = await count_tokens(self._tokens, name, notes.begun)

        async def read(work: UnitOfWork) -> ChatRequest:
            model, prompt = await self._prompter.prompt(work, lease, begun)
            notes.input_tokens = prompt.input_tokens + shown
            params = lease.settings.params
            if params.max_tokens is not None:
                params = replace(params, max_tokens=max(1, params.max_tokens - (shown - begun)))
            return ChatRequest(model.name, prompt.messages, params, lease.reply_id, lease.conversation_id, unfinished)

        return await self._patiently(read)

    async def _afford(self, tail: Tail, notes: Notes, request: ChatRequest) -> None:
        """See to it that the request is paid for by what is reserved. Raises QuotaExceeded."""
        going_on = bool(request.unfinished)
        most = notes.spent.total_tokens + most_tokens(notes.input_tokens, request.params, going_on=going_on)
        if most <= notes.reserved or not self._allowances.limits_tokens_of(tail.lease.user_id):
            return

        async def extend(work: UnitOfWork) -> bool:
            extended = await self._allowances.extend(work, tail.lease, most)
            await work.commit()
            return extended

        if not await self._patiently(extend, self._storage.write):
            tail.stop(Halt.LOST)
        notes.reserved = most

    async def _log(self, lease: Lease) -> list[LoggedEvent]:
        return await self._patiently(lambda work: work.log.after(lease.reply_id, 0, WHOLE_LOG))

    async def _patiently(self, do: Callable[[UnitOfWork], Awaitable[Found]], unit: Unit | None = None) -> Found:
        """Read, or do what `unit` is for, while the database may be away for as long as the journal bears it."""
        deadline = self._journal.clock() + STORAGE_PATIENCE_SECONDS
        while True:
            try:
                async with self._reading, (unit or self._storage.read)() as work:
                    return await do(work)
            except (StorageError, Unavailable):
                if self._journal.clock() > deadline:
                    raise
            await asyncio.sleep(READ_PAUSE_SECONDS)

    # ── going on after a cut ──

    def _goes_on(self, tail: Tail, notes: Notes, error: ProviderError) -> bool:
        """Whether to ask again: what failed before anything was shown has been repeated by the ChatModel already."""
        going_on = self._recovery is Recovery.CONTINUE and error.retryable and notes.cuts < MAX_CUTS
        return going_on and bool(tail.parts_so_far())

    async def _pause(self, tail: Tail, notes: Notes, error: ProviderError) -> None:
        seconds = CUT_PAUSE_SECONDS * 2**notes.cuts if error.retry_after is None else error.retry_after
        seconds = min(seconds, LONGEST_PAUSE_SECONDS)
        notes.cuts += 1
        notes.spent += await self._spent(tail, notes)
        notes.written.clear()
        notes.asked = notes.accepted = False
        tail.append(Retrying(notes.requests + 1, round(1000 * seconds)))
        await asyncio.sleep(seconds)

    # ── ends ──

    async def _halted(self, tail: Tail, notes: Notes) -> Outcome | HandOver:
        """Of a request that has a budget to keep to and got no answer yet, the worst is believed: that it costs."""
        notes.accepted |= notes.asked and notes.reserved > 0 and not self._waits(notes)
        if tail.halt is Halt.STOP:
            return await self._outcome(tail, notes, ReplyStatus.STOPPED, FinishReason.STOPPED_BY_USER)
        if tail.halt is Halt.STORAGE:
            return await self._failed(tail, notes, STORAGE_FAILED)
        outcome = await self._failed(tail, notes, INTERRUPTED)
        if self._recovery is Recovery.KEEP and tail.parts_so_far():
            return outcome
        return HandOver(outcome.usage, outcome.requests, outcome.token_count)

    async def _failed(self, tail: Tail, notes: Notes, error: ReplyError) -> Outcome:
        return replace(await self._outcome(tail, notes, ReplyStatus.FAILED, FinishReason.ERROR), error=error)

    async def _outcome(self, tail: Tail, notes: Notes, status: ReplyStatus, reason: FinishReason) -> Outcome:
        """The end of an attempt with our own count of its tokens, flagged as an estimate."""
        return Outcome(
            status,
            reason,
            usage=notes.spent + await self._spent(tail, notes),
            requests=notes.requests - self._waits(notes),
            request_id=notes.request_id,
            first_token_at=notes.first_token_at,
            reasoning_ms=notes.reasoning_ms,
            token_count=await count_tokens(self._tokens, tail.lease.settings.model or "", tail.text_so_far()),
        )

    async def _spent(self, tail: Tail, notes: Notes) -> Usage:
        """Our own count for the running request."""
        tokens = await count_tokens(self._tokens, tail.lease.settings.model or "", "".join(notes.written))
        return Usage(notes.input_tokens if notes.accepted else 0, tokens, estimated=True)

    def _waits(self, notes: Notes) -> bool:
        """Whether the running request is still to be made again."""
        return notes.next_request_at is not None and self._clock.now() < notes.next_request_at


class PartWriter:
    """Turns chunks into events: a part begins with the first chunk of another kind than the one before.

    A continuation goes on in the last part; what it repeats of the answer is dropped.
    """

    def __init__(self, tail: Tail, notes: Notes, clock: Clock) -> None:
        self._tail = tail
        self._notes = notes
        self._clock = clock
        self._index = -1
        self._kind: PartKind | None = None
        self._seam = Seam("")

    def begin(self, unfinished: str) -> None:
        """A request begins, after so much of the answer. Reasoning that broke off stays, and is begun anew."""
        parts = self._tail.parts_so_far()
        self._index = len(parts) - 1
        self._kind = PartKind.TEXT if parts and parts[-1].kind is PartKind.TEXT else None
        self._seam = Seam(unfinished)

    def write(self, chunk: ChatChunk) -> None:
        match chunk:
            case TextChunk(text):
                self._notes.written.append(text)
                self._append(PartKind.TEXT, self._seam.feed(text))
            case ReasoningChunk(text):
                self._notes.written.append(text)
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

    def end(self) -> None:
        """The answer is whole."""
        self._append(PartKind.TEXT, self._seam.end())
        self._close_reasoning()

    def _append(self, kind: PartKind, text: str) -> None:
        if not text:
            return
        if self._notes.first_token_at is None:
            self._notes.first_token_at = self._clock.now()
        if kind is not self._kind:
            self._begin(kind)
        self._tail.append(TextDelta(self._index, text))

    def _begin(self, kind: PartKind) -> None:
        now = self._clock.now()
        self._close_reasoning()
        if kind is PartKind.REASONING:
            self._notes.reasoning_from = now
        self._index += 1
        self._kind = kind
        self._tail.append(PartAdded(self._index, kind))

    def _close_reasoning(self) -> None:
        if self._notes.reasoning_from is not None and self._kind is PartKind.REASONING:
            elapsed = self._clock.now() - self._notes.reasoning_from
            self._notes.reasoning_ms = round(elapsed.total_seconds() * 1000)
            self._notes.reasoning_from = None
