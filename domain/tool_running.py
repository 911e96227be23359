"""Running the calls that a model made: each at most once, its result stored together with what it did.

The start of a call is committed before it runs, its result in the tool's own unit of work; both only while this process
holds the reply. A call that had started when an attempt broke off is repeated only where its tool is idempotent. Which
request the calls came from, and what the model does with the results, is not known here.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from domain.accounts import User
from domain.conversations import Conversation, GenerationSettings
from domain.errors import StorageError, Unavailable
from domain.events import ToolCallChanged
from domain.models import OfferedTool
from domain.patience import Patience
from domain.ports import Clock, Ids, Telemetry
from domain.replies import Lease
from domain.spoken import calls_in
from domain.storage import Storage, UnitOfWork
from domain.tail import Halt, Tail
from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus, ToolChoice, ToolErrorCode, cancelled, failed
from domain.tool_contexts import WORKS_AT_ONCE, CallContext, OutOfTime, Unfinished, bounded
from domain.tool_results import MESSAGE_CHARACTERS, arguments_in, cut
from domain.tools import Tool, Toolbox, ToolError, ToolUnreachable

FAREWELL_SECONDS = 1.0
"""A tool that goes on so long after it was cancelled is left to itself."""
UNREACHABLE = "The tool cannot be reached right now."
BROKEN_OFF = "The answer broke off while the model wrote this call."
UNKNOWN = "The server stopped while the tool ran: whether it took effect is not known. It was not repeated."
Calls = list[tuple[int, ToolCall]]


@dataclass(frozen=True, slots=True)
class Known:
    """What is read before calls run."""

    stored: dict[str, ToolCall]
    allowed: frozenset[str]
    user: User | None
    conversation: Conversation | None


class ToolRunner:
    """`tools_storage` is for the tools' own units of work: however long those are open, ours find a connection."""

    def __init__(
        self,
        storage: Storage,
        tools_storage: Storage,
        toolbox: Toolbox,
        clock: Clock,
        ids: Ids,
        telemetry: Telemetry,
        approval_seconds: float,
    ) -> None:
        self._storage = storage
        self._tools_storage = tools_storage
        self._toolbox = toolbox
        self._clock = clock
        self._ids = ids
        self._telemetry = telemetry
        self._approval = timedelta(seconds=approval_seconds)
        self._patiently = Patience()
        self._turns = asyncio.Semaphore(1 if tools_storage.embedded else WORKS_AT_ONCE)

    def offered(self, settings: GenerationSettings) -> tuple[OfferedTool, ...]:
        """Those of the tools that the settings name which are there."""
        found = (self._toolbox.get(name) for name in settings.tools or ())
        return tuple(OfferedTool(tool.name, tool.description, tool.parameters) for tool in found if tool is not None)

    def check(self, call: ToolCall, settings: GenerationSettings) -> ToolCall:
        """A call that has been written whole: QUEUED with its arguments, or FAILED, with what the model is told."""
        now, arguments = self._clock.now(), arguments_in(call.arguments_text)
        names = () if settings.tool_choice is ToolChoice.NONE else settings.tools or ()
        if call.name not in names:
            told = f"There is no tool {cut(call.name, 100)!r} to call here; there is {', '.join(names) or 'none'}."
            return failed(call, ToolErrorCode.UNKNOWN_TOOL, told, now)
        if (tool := self._toolbox.get(call.name)) is None:
            return failed(call, ToolErrorCode.UNAVAILABLE, UNREACHABLE, now)
        if arguments is None:
            written = cut(call.arguments_text, 200)
            told = f"The arguments were no JSON object, so the call was not made. They began: {written}"
            return failed(call, ToolErrorCode.INVALID_ARGUMENTS, told, now)
        if (wrong := tool.check(arguments)) is not None:
            told = cut(f"The arguments do not fit, so the call was not made: {wrong}", MESSAGE_CHARACTERS)
            return failed(replace(call, arguments=arguments), ToolErrorCode.INVALID_ARGUMENTS, told, now)
        return replace(call, status=ToolCallStatus.QUEUED, arguments=arguments)

    async def act(self, tail: Tail) -> bool:
        """Bring every call of the reply to its end, but those that need approval. Whether there are such.

        What earlier attempts stored of them is told first, and counts.
        """
        if all(call.status.ended for _, call in calls_in(tail.parts_so_far())):
            return False
        await tail.flushed()
        known = await self._patiently(lambda work: _known(work, tail.lease), self._storage.read)
        told = dict(calls_in(tail.parts_so_far()))
        stored = {index: known.stored.get(call.id, call) for index, call in told.items()}
        calls = {index: self._next(call, known, self._clock.now()) for index, call in stored.items()}
        running = ToolCallStatus.RUNNING
        changed = [(index, call) for index, call in calls.items() if call.status is running or call != stored[index]]
        if changed and not await self._patiently(lambda work: _added(work, tail.lease, changed), self._storage.write):
            tail.stop(Halt.LOST)
            raise asyncio.CancelledError
        for index, call in calls.items():
            if call != told[index]:
                tail.append(ToolCallChanged(index, call))
        await self._run_all(tail, calls, known)
        return any(call.status is ToolCallStatus.AWAITING_APPROVAL for call in calls.values())

    async def _run_all(self, tail: Tail, calls: Mapping[int, ToolCall], known: Known) -> None:
        running = [(index, call) for index, call in calls.items() if call.status is ToolCallStatus.RUNNING]
        try:
            async with asyncio.TaskGroup() as group:
                for index, call in running:
                    group.create_task(self._run(tail, index, call, known), name=f"tool {call.id}")
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    def _next(self, call: ToolCall, known: Known, now: datetime) -> ToolCall:
        """What becomes of a call before the tools of this attempt begin; itself where nothing does."""
        if call.status is ToolCallStatus.WRITING:
            return cancelled(call, BROKEN_OFF)
        if call.status not in (ToolCallStatus.QUEUED, ToolCallStatus.RUNNING):
            return call
        tool = self._toolbox.get(call.name)
        if call.status is ToolCallStatus.RUNNING and (tool is None or not tool.idempotent):
            return failed(call, ToolErrorCode.INTERRUPTED, UNKNOWN, now)
        if tool is None or known.user is None or known.conversation is None:
            return failed(call, ToolErrorCode.UNAVAILABLE, UNREACHABLE, now)
        asks = tool.needs_approval and call.name not in known.allowed
        if asks and call.approval is None and call.status is ToolCallStatus.QUEUED:
            approval = ToolApproval(now, now + self._approval)
            return replace(call, status=ToolCallStatus.AWAITING_APPROVAL, approval=approval)
        return replace(call, status=ToolCallStatus.RUNNING, started_at=now)

    # ── one call ──

    async def _run(self, tail: Tail, index: int, call: ToolCall, known: Known) -> None:
        """Run it and store how it ended. When this is cancelled, a result that is being stored still is."""
        tool = self._toolbox.get(call.name)
        assert tool is not None
        assert known.user is not None
        assert known.conversation is not None
        async with Unfinished(self._tools_storage, self._turns) as unit:
            context = CallContext(known.user, known.conversation, call.id, self._clock, self._ids, unit)
            ended = await self._ended(tool, context, call)
            storing = asyncio.create_task(self._store(tail.lease, ended, unit))
            try:
                await asyncio.shield(storing)
            finally:
                await asyncio.wait({storing})
                self._stored(tail, index, storing.result())

    def _stored(self, tail: Tail, index: int, call: ToolCall | None) -> None:
        if call is None:
            tail.stop(Halt.LOST)
            return
        self._telemetry.tool_called(call)
        tail.append(ToolCallChanged(index, call))

    async def _ended(self, tool: Tool, context: CallContext, call: ToolCall) -> ToolCall:
        """The call with its result, or with why it has none. Tools are not trusted to heed their cancellation."""
        unit = context.unit
        running = asyncio.ensure_future(bounded(tool, context, call.arguments or {}))
        running.add_done_callback(_looked_at)
        try:
            await asyncio.wait({running}, timeout=tool.timeout + FAREWELL_SECONDS)
        finally:
            running.cancel()
            unit.closed = True
        if not running.done():
            await asyncio.wait({running}, timeout=FAREWELL_SECONDS)
        now = self._clock.now()
        if not running.done():
            return failed(call, ToolErrorCode.TIMED_OUT, f"The tool did not answer within {tool.timeout:g} s.", now)
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        if error is None:
            result = running.result()
            return replace(call, status=ToolCallStatus.SUCCEEDED, result=result, finished_at=now)
        return self._without_result(call, error, now)

    def _without_result(self, call: ToolCall, error: BaseException, now: datetime) -> ToolCall:
        match error:
            case ToolError():
                told = cut(str(error), MESSAGE_CHARACTERS) or "The tool refused."
                return failed(call, ToolErrorCode.REFUSED, told, now)
            case ToolUnreachable():
                return failed(call, ToolErrorCode.UNAVAILABLE, UNREACHABLE, now)
            case Unavailable():
                return failed(call, ToolErrorCode.UNAVAILABLE, "The database cannot be reached right now.", now)
            case OutOfTime():
                return failed(call, ToolErrorCode.TIMED_OUT, str(error), now)
        self._telemetry.tool_broke(call, error)
        return failed(call, ToolErrorCode.BROKEN, f"The tool failed unexpectedly; reference {call.id}.", now)

    async def _store(self, lease: Lease, ended: ToolCall, unit: Unfinished) -> ToolCall | None:
        """Store the end, a result in the tool's own unit of work when it has one. As stored; None for a lost lease."""
        if unit.work is not None and ended.status is ToolCallStatus.SUCCEEDED:
            try:
                if not await unit.work.tool_calls.finish(lease, ended):
                    return None
                await unit.work.commit()
                return ended
            except (StorageError, Unavailable) as error:
                await unit.roll_back()
                self._telemetry.tool_broke(ended, error)
                told = f"The server's database failed, so nothing of it was kept; reference {ended.id}."
                lost = failed(replace(ended, result=None), ToolErrorCode.BROKEN, told, self._clock.now())
                return await self._finished(lease, lost, ended)
        await unit.roll_back()
        return await self._finished(lease, ended, ended)

    async def _finished(self, lease: Lease, ended: ToolCall, perhaps: ToolCall) -> ToolCall | None:
        """A commit whose answer was lost may have stored it already, or what was to be stored before it."""

        async def finish(work: UnitOfWork) -> ToolCall | None:
            if await work.tool_calls.finish(lease, ended):
                await work.commit()
                return ended
            stored = (await work.tool_calls.of(lease.reply_id)).get(ended.id)
            return stored if stored in (ended, perhaps) else None

        return await self._patiently(finish, self._storage.write)


def _looked_at(task: asyncio.Future[object]) -> None:
    """What a tool raises that nobody waits for any more stays out of the log: it may quote what users wrote."""
    if not task.cancelled():
        task.exception()


async def _known(work: UnitOfWork, lease: Lease) -> Known:
    return Known(
        stored=await work.tool_calls.of(lease.reply_id),
        allowed=await work.tool_calls.allowed(lease.conversation_id),
        user=await work.users.get(lease.user_id),
        conversation=await work.conversations.get(lease.user_id, lease.conversation_id),
    )


async def _added(work: UnitOfWork, lease: Lease, calls: Calls) -> bool:
    added = await work.tool_calls.add(lease, calls)
    if added:
        await work.commit()
    return added
