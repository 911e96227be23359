"""Following a reply: read after a cursor, wait for the bell, until the terminal event.

Where the text is written by this process, a reader that can show it at once is handed it while it waits.
A reader holds nothing but its cursor. Live, late, resumed, in a second tab or on another process, it takes these same
lines: the memory of the process that writes where that reaches, the relay's for what is written elsewhere, the log
where a reader has to catch up, a snapshot where none of them can serve the cursor. A slow reader gets fewer, larger
deltas. Nothing here knows transports.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from domain.conversations import Message
from domain.errors import NotFound
from domain.events import (
    ArgumentsDelta,
    Finished,
    LoggedEvent,
    PartAdded,
    Retrying,
    StatusChanged,
    TextDelta,
    ToolCallChanged,
    Window,
    joined,
)
from domain.journal import Journal
from domain.ports import Bell, Notifier, Telemetry
from domain.relay import Followed, Relay
from domain.replies import ReplyStatus
from domain.spoken import calls_in
from domain.storage import Storage
from domain.tail import Tail
from domain.topics import reply_topic

POLL_SECONDS = 5.0
"""Behind the bell, which the journal and the relay ring; the relay looks more often itself."""
READ_AT_ONCE = 1_000
WAITING = ReplyStatus.AWAITING_APPROVAL


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything so far; replaces what the reader holds."""

    message: Message


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event: the message is final."""

    message: Message


@dataclass(frozen=True, slots=True)
class ArgumentsWritten:
    """Text to append to the arguments of the call in the part with this index."""

    index: int
    call_id: str
    text: str


Shown = Snapshot | PartAdded | TextDelta | ArgumentsWritten | ToolCallChanged | StatusChanged | Retrying | Ended


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """What a reader gets. `cursor` is opaque to it; `reply_id` names the message that parts belong to."""

    reply_id: str
    cursor: str
    event: Shown


Push = Callable[[StreamedEvent], bool]
"""Shows an event at once; False where it cannot."""


def cursor_at(log_id: str, seq: int) -> str:
    """The opaque cursor of an event in a log, which is a reply's or a user's."""
    return base64.urlsafe_b64encode(f"{log_id}:{seq}".encode()).decode().rstrip("=")


def position_in(log_id: str, cursor: str | None, *, digits: int = 9) -> int | None:
    """The number a cursor stands for; None when it is malformed or another log's: then a snapshot serves."""
    if cursor is None:
        return None
    try:
        owner, _, seq = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        return int(seq) if owner == log_id and seq.isascii() and seq.isdigit() and len(seq) <= digits else None
    except (ValueError, binascii.Error):
        return None


class ReplyStream:
    def __init__(
        self, storage: Storage, notifier: Notifier, journal: Journal, relay: Relay, telemetry: Telemetry
    ) -> None:
        self._storage = storage
        self._notifier = notifier
        self._journal = journal
        self._relay = relay
        self._telemetry = telemetry
        self._news = WatchedMessages(storage)

    async def follow(
        self, user_id: str, reply_id: str, after: str | None, push: Push | None = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        """The events after a cursor, until the terminal one; whoever stops before that closes the generator.

        While the next event is waited for, text that is committed here goes to `push`, and to the generator only what
        that refuses. It is called in the writer's turn: it must be quick, and must not wait.

        Raises NotFound at once, before the stream begins, when the reply is absent, foreign or was not generated.
        """
        async with self._storage.peek() as work:
            message = await work.messages.get(user_id, reply_id)
        if message is None or message.reply is None:
            raise NotFound("reply", reply_id, "replyId")
        position = position_in(reply_id, after)
        return self._follow(Reader(self._storage, self._journal, self._relay, self._news, message, position, push))

    async def settled(self, reply_id: str, seconds: float, *, or_waits: bool = False) -> None:
        """Wait until the reply has ended, at most so long: asking the database only when something has changed.

        With `or_waits` also until it awaits approval.
        """
        deadline = self._journal.clock() + seconds
        async with self._notifier.listen(reply_topic(reply_id)) as bell:
            while (remaining := deadline - self._journal.clock()) > 0:
                async with self._storage.peek() as work:
                    progress = await work.replies.progress(reply_id)
                if progress is None or progress.status.settled or (or_waits and progress.status is WAITING):
                    return
                if (tail := self._journal.tail(reply_id)) is not None:
                    await tail.wait_ended(remaining)
                    continue
                with self._relay.following(reply_id, progress.newest_seq) as elsewhere:
                    await self._news_of_the_end(reply_id, elsewhere, bell, deadline)

    async def _news_of_the_end(self, reply_id: str, elsewhere: Followed, bell: Bell, deadline: float) -> None:
        """Until it may have ended or wait for its user, or is made here after all."""
        while (remaining := deadline - self._journal.clock()) > 0:
            await bell.wait(min(POLL_SECONDS, remaining))
            if elsewhere.gone or _at_rest(elsewhere.window) or self._journal.tail(reply_id) is not None:
                return

    async def _follow(self, reader: "Reader") -> AsyncGenerator[StreamedEvent, None]:
        self._telemetry.stream_opened()
        try:
            async with self._notifier.listen(reply_topic(reader.reply_id)) as bell:
                while not reader.ended:
                    batch = await reader.more()
                    for event in batch:
                        yield event
                    if not batch and not reader.ended and not await reader.pushed():
                        await bell.wait(POLL_SECONDS)
        finally:
            reader.close()
            self._telemetry.stream_closed()


class WatchedMessages:
    """Messages as they are now, for readers whose right was checked: those who ask at once are answered at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._wanted: set[str] = set()
        self._loading: asyncio.Task[dict[str, Message]] | None = None

    async def get(self, message_id: str) -> Message | None:
        self._wanted.add(message_id)
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        return (await asyncio.shield(self._loading)).get(message_id)

    async def _load(self) -> dict[str, Message]:
        """Begins when all who are awake now have asked."""
        await asyncio.sleep(0)
        wanted, self._wanted, self._loading = self._wanted, set(), None
        async with self._storage.peek() as work:
            return await work.messages.watched(wanted)


class Reader:
    """One reader's place in one log."""

    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        relay: Relay,
        news: WatchedMessages,
        message: Message,
        position: int | None,
        push: Push | None,
    ) -> None:
        self.reply_id = message.id
        self.ended = False
        self._storage = storage
        self._journal = journal
        self._relay = relay
        self._news = news
        self._message = message
        self._position = position
        self._push = push
        self._call_ids = {index: call.id for index, call in calls_in(message.parts)}
        self._tail: Tail | None = None
        self._elsewhere: Followed | None = None
        self._leaving = ExitStack()

    def close(self) -> None:
        """Let go of what the relay keeps for this reader."""
        self._leaving.close()
        self._elsewhere = None

    async def more(self) -> list[StreamedEvent]:
        """What is new; empty when nothing is. Sets `ended` with the terminal event."""
        if self._position is None:
            return await self._snapshot(self._message)
        events = self._in_memory(self._position)
        if events is None:
            events = await self._from_log(self._position)
        if events is None:
            message = await self._reload()
            return [] if message is None else await self._snapshot(message)
        return [await self._shown(logged) for logged in joined(events)]

    async def pushed(self) -> bool:
        """Wait for what cannot be pushed. False at once where nothing can be."""
        tail = self._tail
        if self._push is None or tail is None or self._position is None or tail.after(self._position) != []:
            return False
        await tail.offered(partial(self._take, self._push))
        return True

    def _take(self, push: Push, events: Sequence[LoggedEvent]) -> bool:
        """Push the text that comes next. The rest, if there is any, is to be asked for."""
        if not events or events[0].seq - 1 != self._position:
            return False
        for logged in joined(events):
            if not isinstance(logged.event, TextDelta) or not push(self._event_at(logged.seq, logged.event)):
                return False
            self._position = logged.seq
        return True

    def _in_memory(self, position: int) -> list[LoggedEvent] | None:
        """From the tail where the reply is made here, else from the relay; None when neither can tell."""
        self._tail = self._journal.tail(self.reply_id) or self._tail
        if self._tail is not None:
            self.close()
            events = self._tail.after(position)
            if events or not self._tail.ended.is_set():
                return events
            self._tail = None  # lost or handed over: it goes on elsewhere
        if self._elsewhere is not None and self._elsewhere.gone:
            self.close()
        return None if self._elsewhere is None else self._elsewhere.window.after(position)

    async def _from_log(self, position: int) -> list[LoggedEvent] | None:
        """None when the log cannot go on from there: swept away, or a position that was never reached.

        From what was read here on the relay tells what is new.
        """
        async with self._storage.read() as work:
            progress = await work.replies.progress(self.reply_id)
            events = await work.log.after(self.reply_id, position, READ_AT_ONCE)
        if progress is None:
            self.ended = True
            return []
        if not progress.status.settled:
            self._follow_elsewhere(progress.newest_seq)
        if events and events[0].seq == position + 1:
            return events
        if position != progress.newest_seq:
            return None
        if not progress.status.settled:
            return []
        return [LoggedEvent(position, 0, Finished(progress.status))]

    async def _snapshot(self, message: Message) -> list[StreamedEvent]:
        self._position = message.cursor or 0
        self._call_ids = {index: call.id for index, call in calls_in(message.parts)}
        shown = [self._event(Snapshot(message))]
        if message.reply is not None and message.reply.status.settled:
            self.ended = True
            shown.append(self._event(Ended(message)))
        else:
            self._tail = self._journal.tail(self.reply_id)
            self._follow_elsewhere(self._position)
        return shown

    def _follow_elsewhere(self, seq: int) -> None:
        """Have the relay look for what comes after that number, unless the reply is made here."""
        if self._tail is None and self._elsewhere is None:
            self._elsewhere = self._leaving.enter_context(self._relay.following(self.reply_id, seq))

    async def _shown(self, logged: LoggedEvent) -> StreamedEvent:
        self._position = logged.seq
        match logged.event:
            case Finished():
                self.ended = True
                return self._event(Ended(await self._reload() or self._message))
            case ArgumentsDelta(index, text):
                return self._event(ArgumentsWritten(index, self._call_ids[index], text))
            case PartAdded(index, _, call) if call is not None:
                self._call_ids[index] = call.id
        return self._event(logged.event)

    async def _reload(self) -> Message | None:
        message = await self._news.get(self.reply_id)
        if message is None:
            self.ended = True
        return message

    def _event(self, event: Shown) -> StreamedEvent:
        return self._event_at(self._position or 0, event)

    def _event_at(self, seq: int, event: Shown) -> StreamedEvent:
        return StreamedEvent(self.reply_id, cursor_at(self.reply_id, seq), event)


def _at_rest(window: Window) -> bool:
    """Whether the newest event is the last for now."""
    newest = window.after(window.newest - 1) or []
    return window.finished or any(logged.event == StatusChanged(WAITING) for logged in newest)
