"""The making of one reply: history -> prompt -> model -> tools -> model ..., until it ends, is handed over, or waits.

The model's chunks become events of the reply's tail; the end becomes an Outcome that is committed together with the
last events. What was shown once is never taken back: an attempt that finds some of the text written already, and a
request after one that was cut, go on from its end, with the results of tools that are there. Whoever reads the reply,
if anybody, is unknown here, and so are other replies.
"""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace

from domain.conversations import Role
from domain.errors import ProviderError, QuotaExceeded, StorageError, Unavailable
from domain.events import LoggedEvent, Retrying, ToolCallChanged, fold, folded, whole_in
from domain.journal import Journal
from domain.limits import Allowances, OutputBound
from domain.models import ArgumentsChunk, ChatRequest, FinishChunk, OfferedTool, ReasoningChunk, TextChunk
from domain.patience import Patience
from domain.ports import ChatModel, Clock, Ids, Telemetry, TokenCounter
from domain.prompting import ANSWER_TOKENS, Prompter, count_said, count_tokens, most_tokens
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
    ReplyFailed,
    ReplyStatus,
    Usage,
)
from domain.spoken import Said, calls_in, said_in, so_far_in, steps_of
from domain.storage import WHOLE_LOG, Storage, UnitOfWork
from domain.tail import Halt, Tail
from domain.tool_calls import ToolCall, ToolCallStatus, ToolChoice, cancelled
from domain.tool_running import BROKEN_OFF, ToolRunner
from domain.tool_steps import MAX_STEPS, check_mistakes, next_step
from domain.writing import Notes, PartWriter

MAX_CUTS = 2
"""So often an answer that was cut is asked for again in one attempt."""
CUT_PAUSE_SECONDS = 1.0
"""Before the first time; doubled before the next. What the endpoint asks for rules, up to the most."""
LONGEST_PAUSE_SECONDS = 30.0


class ReplyGenerator:
    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        model: ChatModel,
        tokens: TokenCounter,
        prompter: Prompter,
        tools: ToolRunner,
        allowances: Allowances,
        clock: Clock,
        ids: Ids,
        telemetry: Telemetry,
        recovery: Recovery,
    ) -> None:
        self._storage = storage
        self._journal = journal
        self._model = model
        self._tokens = tokens
        self._prompter = prompter
        self._tools = tools
        self._allowances = allowances
        self._clock = clock
        self._ids = ids
        self._telemetry = telemetry
        self._recovery = recovery
        self._patiently = Patience()

    async def run(self, lease: Lease) -> bool:
        """Make the reply and store its end. True when that is committed, False when the lease was lost or given up."""
        log = [] if lease.fresh else await self._log(lease)
        tail = self._journal.open(lease, folded(log))
        notes = _notes(lease, log)
        answering = asyncio.create_task(self._answer(tail, notes))
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
        except ReplyFailed as failure:
            outcome = await self._failed(tail, notes, failure.error)
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

    async def _answer(self, tail: Tail, notes: Notes) -> Outcome | HandOver:
        """Answers of the model and the tools that it calls in them, by turns, until an answer calls none."""
        writer = PartWriter(tail, notes, self._clock, self._ids)
        while True:
            if await self._tools.act(tail):
                return await self._handed_over(tail, notes, awaits_approval=True)
            parts = tail.parts_so_far()
            check_mistakes(call for _, call in calls_in(parts) if call.step > notes.begun_steps)
            step = next_step(parts)
            last = step - notes.begun_steps >= MAX_STEPS
            finish = await self._asked(tail, notes, writer, step, last)
            if not self._called(tail, notes, finish, last):
                break
        reason = FinishReason.TOOL_LIMIT if last and finish.finish_reason is FinishReason.STOP else finish.finish_reason
        outcome = await self._outcome(tail, notes, ReplyStatus.COMPLETE, reason)
        return replace(outcome, response_model=finish.response_model, completion_id=finish.completion_id)

    async def _asked(self, tail: Tail, notes: Notes, writer: PartWriter, step: int, last: bool) -> FinishChunk:
        """One answer, asked for again from the end of what is there where it was cut."""
        while True:
            try:
                finish = await self._ask(tail, notes, writer, step, last)
                break
            except ProviderError as error:
                if not self._goes_on(tail, notes, error):
                    raise
                self._telemetry.provider_failed(tail.lease, error)
                await self._pause(tail, notes, error)
        notes.request_ended(finish.usage or await self._spent(tail, notes))
        return finish

    def _called(self, tail: Tail, notes: Notes, finish: FinishChunk, last: bool) -> bool:
        """Tell what becomes of the calls in an answer that is whole. Whether there are any for the tools to act on."""
        calls = _being_written(tail)
        acts = finish.finish_reason is FinishReason.STOP and not last
        why = f"The limit of {MAX_STEPS} steps was reached." if last else "The answer ended within this call."
        for index, call in calls:
            checked = self._tools.check(call, tail.lease.settings) if acts else cancelled(call, why)
            tail.append(ToolCallChanged(index, checked))
        if acts and calls:
            notes.whole = len(tail.parts_so_far())
        return acts and bool(calls)

    async def _ask(self, tail: Tail, notes: Notes, writer: PartWriter, step: int, last: bool) -> FinishChunk:
        """One request, from the end of what is there already."""
        request = await self._request(tail, notes, last)
        await self._afford(tail, notes, request)
        notes.requests += 1
        notes.asked = True
        writer.begin(request.unfinished, step)
        finish: FinishChunk | None = None
        most = request.params.max_tokens or ANSWER_TOKENS
        bound = OutputBound(self._tokens, request.model, most) if notes.reserved else None
        async with aclosing(self._model.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, FinishChunk):
                    finish = chunk
                    continue
                writer.write(chunk)
                if tail.is_full:
                    await tail.room()
                if bound and isinstance(chunk, _COUNTED) and await bound.passed(chunk.text):
                    finish = FinishChunk(FinishReason.LENGTH, None, None, None)
                    break
        assert finish is not None, "the ChatModel port promises a FinishChunk"
        writer.end()
        return finish

    async def _request(self, tail: Tail, notes: Notes, last: bool) -> ChatRequest:
        lease, parts = tail.lease, tail.parts_so_far()
        name = lease.settings.model or ""
        steps, texts = so_far_in(parts, notes.whole)
        unfinished, tools = "".join(texts), self._tools.offered(lease.settings)
        shown = await count_tokens(self._tokens, name, unfinished)
        begun = await self._begun(name, notes, len(calls_in(parts)))
        extra = await count_said(self._tokens, name, steps) + await self._weight(name, tools)

        async def read(work: UnitOfWork) -> ChatRequest:
            model, prompt = await self._prompter.prompt(work, lease, begun + extra)
            notes.input_tokens = prompt.input_tokens + shown + extra
            params = lease.settings.params
            if params.max_tokens is not None:
                params = replace(params, max_tokens=max(1, params.max_tokens - (shown - begun)))
            messages: tuple[Said, ...] = (*prompt.messages, *steps)
            choice = _choice(lease, last, any(call.step > notes.begun_steps for _, call in calls_in(parts)))
            return ChatRequest(
                model.name, messages, params, lease.reply_id, lease.conversation_id, unfinished, tools, choice
            )

        return await self._patiently(read, self._storage.peek)

    async def _begun(self, model: str, notes: Notes, calls: int) -> int:
        """Tokens of what the reply began with in the text that is being gone on with."""
        return await count_tokens(self._tokens, model, notes.begun) if calls == notes.begun_calls else 0

    async def _weight(self, model: str, tools: tuple[OfferedTool, ...]) -> int:
        """Tokens of the tools' descriptions: about, as every model is told of them in its own way."""
        if not tools:
            return 0
        told = [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in tools]
        return await count_tokens(self._tokens, model, json.dumps(told, ensure_ascii=False))

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
        return await self._patiently(lambda work: work.log.after(lease.reply_id, 0, WHOLE_LOG), self._storage.peek)

    # ── going on after a cut ──

    def _goes_on(self, tail: Tail, notes: Notes, error: ProviderError) -> bool:
        """Whether to ask again: what failed before anything was shown has been repeated by the ChatModel already."""
        going_on = self._recovery is Recovery.CONTINUE and error.retryable and notes.cuts < MAX_CUTS
        return going_on and bool(tail.parts_so_far())

    async def _pause(self, tail: Tail, notes: Notes, error: ProviderError) -> None:
        seconds = CUT_PAUSE_SECONDS * 2**notes.cuts if error.retry_after is None else error.retry_after
        seconds = min(seconds, LONGEST_PAUSE_SECONDS)
        notes.cuts += 1
        notes.request_ended(await self._spent(tail, notes))
        for index, call in _being_written(tail):  # the next answer makes them again, and must not make them double
            tail.append(ToolCallChanged(index, cancelled(call, BROKEN_OFF)))
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
        if self._recovery is Recovery.KEEP and tail.parts_so_far():
            return await self._failed(tail, notes, INTERRUPTED)
        return await self._handed_over(tail, notes)

    async def _handed_over(self, tail: Tail, notes: Notes, *, awaits_approval: bool = False) -> HandOver:
        outcome = await self._failed(tail, notes, INTERRUPTED)
        return HandOver(outcome.usage, outcome.requests, outcome.token_count, awaits_approval)

    async def _failed(self, tail: Tail, notes: Notes, error: ReplyError) -> Outcome:
        return replace(await self._outcome(tail, notes, ReplyStatus.FAILED, FinishReason.ERROR), error=error)

    async def _outcome(self, tail: Tail, notes: Notes, status: ReplyStatus, reason: FinishReason) -> Outcome:
        """The end of an attempt with our own count of its tokens, flagged as an estimate."""
        return Outcome(
            status,
            reason,
            usage=notes.spent + (await self._spent(tail, notes) if notes.asked or not notes.requests else Usage()),
            requests=notes.requests - self._waits(notes),
            request_id=notes.request_id,
            first_token_at=notes.first_token_at,
            reasoning_ms=notes.reasoning_ms,
            token_count=await self._shown(tail),
        )

    async def _shown(self, tail: Tail) -> int:
        """Tokens of all that was shown, as prompts have it later."""
        ended = [replace(p, call=p.call and cancelled(p.call)) for p in tail.parts_so_far()]
        return await count_said(self._tokens, tail.lease.settings.model or "", said_in(Role.ASSISTANT, ended))

    async def _spent(self, tail: Tail, notes: Notes) -> Usage:
        """Our own count for the running request."""
        tokens = await count_tokens(self._tokens, tail.lease.settings.model or "", "".join(notes.written))
        return Usage(notes.input_tokens if notes.accepted else 0, tokens, estimated=True)

    def _waits(self, notes: Notes) -> bool:
        """Whether the running request is still to be made again."""
        return notes.next_request_at is not None and self._clock.now() < notes.next_request_at


_COUNTED = (TextChunk, ReasoningChunk, ArgumentsChunk)


def _notes(lease: Lease, log: list[LoggedEvent]) -> Notes:
    begun = fold(logged for logged in log if logged.attempt == 0)
    calls = calls_in(begun)
    return Notes(
        begun="".join(steps_of(Role.ASSISTANT, begun)[1]),
        whole=whole_in(log),
        begun_calls=len(calls),
        begun_steps=max((call.step for _, call in calls), default=0),
        reserved=lease.reserved_tokens,
    )


def _being_written(tail: Tail) -> list[tuple[int, ToolCall]]:
    return [each for each in calls_in(tail.parts_so_far()) if each[1].status is ToolCallStatus.WRITING]


def _choice(lease: Lease, last: bool, called: bool) -> ToolChoice:
    """What is required is required once; the last answer must do with what there is."""
    choice = lease.settings.tool_choice or ToolChoice.AUTO
    if last:
        return ToolChoice.NONE
    return ToolChoice.AUTO if choice is ToolChoice.REQUIRED and called else choice
