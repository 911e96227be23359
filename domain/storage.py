"""The Protocols of storage: one unit of work with its repositories. Each method's contract is in its docstring.

Implemented in `persistence/` for every database, which all pass the same suites in `tests/contracts/`.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from domain.account_storage import ApiKeys, Budgets, Rates, Sessions, Users
from domain.conversations import Change, Conversation, ConversationEvent, Message, MessagePart, Page, PageRequest
from domain.events import LoggedEvent, ReplyEvent
from domain.replies import Attempt, HandOver, Held, Lease, Outcome, Progress, Reply, ReplyStatus
from domain.tool_storage import Tasks, ToolCalls


@dataclass(frozen=True, slots=True)
class FlushEntry:
    """What one reply adds in a flush. With an `outcome` the attempt ends with it: the reply is settled, and `parts` is
    its final content, or it is handed over."""

    lease: Lease
    events: tuple[LoggedEvent, ...]
    outcome: Outcome | HandOver | None = None
    parts: tuple[MessagePart, ...] = ()


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What became of a flush.

    `mine` says for each entry, in their order, whether its lease still held; if not, nothing of it was stored.
    `to_stop` are those of all the replies of this owner, also without an entry, that somebody wants stopped.
    """

    mine: tuple[bool, ...]
    to_stop: frozenset[Attempt] = frozenset()


@dataclass(frozen=True, slots=True)
class Turn:
    """What a command adds to a conversation: a user's message, if any, and the answer below it with its reply.

    `conversation` is as it is afterwards; it `begins` with the turn, or is held by the unit.
    """

    conversation: Conversation
    message: Message | None
    answer: Message
    begins: bool = False


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What an idempotency key stood for when it was first used. `result` names the ids that were answered."""

    fingerprint: str
    result: Mapping[str, str | None]


class Conversations(Protocol):
    async def add(self, conversation: Conversation) -> None: ...

    async def get(self, user_id: str, conversation_id: str, *, lock: bool = False) -> Conversation | None:
        """The user's conversation; None when absent, deleted or foreign. `lock` holds it until the end of the unit."""
        ...

    async def get_many(self, user_id: str, conversation_ids: Sequence[str]) -> dict[str, Conversation]: ...

    async def page(self, user_id: str, request: PageRequest) -> Page[Conversation]:
        """Newest activity first; cursors are those of `Conversation.cursor`. Raises InvalidInput for others."""
        ...

    async def count(self, user_id: str) -> int: ...

    async def update(self, conversation: Conversation) -> None:
        """Store title, its source, settings, leaf and times."""
        ...

    async def delete(self, conversation_id: str, at: datetime) -> None:
        """Mark as deleted: from now on nobody finds it or its messages; a later purge removes the rows."""
        ...

    async def give(self, from_user_id: str, to_user_id: str) -> int:
        """Make all of one user's conversations another's. Returns how many; live replies stay with whom they began."""
        ...

    async def purge(self, deleted_before: datetime) -> int:
        """Remove conversations marked before that instant, with all they own, some at a time. Returns how many."""
        ...


class Messages(Protocol):
    """Messages come with their reply and, while it is live, with what its log folds to at this instant."""

    async def add(self, *messages: Message) -> None:
        """Parents before their children."""
        ...

    async def get(self, user_id: str, message_id: str) -> Message | None: ...

    async def get_many(self, user_id: str, message_ids: Sequence[str]) -> dict[str, Message]: ...

    async def watched(self, message_ids: Collection[str]) -> dict[str, Message]:
        """The messages whoever asks, deleted or not: for a reader whose right was checked when the stream began."""
        ...

    async def path(self, conversation_id: str, leaf_id: str, request: PageRequest) -> Page[Message]:
        """A page of the path that ends with `leaf_id`, oldest first; cursors are ids of messages on it.

        Raises InvalidInput for others.
        """
        ...

    async def newest(self, message_id: str, token_budget: int, overhead: int) -> list[Message]:
        """The end of the path above a message, oldest first: what fits the budget by stored counts, at least one.

        `overhead` is what each message costs beside its text, in tokens. One without tokens costs nothing: it has no
        text, and prompts leave it out.
        """
        ...

    async def weight(self, parent_id: str | None, tokens: int, token_budget: int, overhead: int) -> int:
        """The tokens of what `newest` would give under a message of so many tokens that is not stored yet.

        Its parent is `parent_id`; each message counts with its overhead.
        """
        ...

    async def children(self, keys: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], list[str]]:
        """Ids of the messages under each (conversation, parent), oldest first; the parent None stands for the roots."""
        ...

    async def all(self, conversation_id: str, request: PageRequest) -> Page[Message]:
        """Every message of every branch in the order of ids, which are the cursors. Raises InvalidInput for others."""
        ...


class Replies(Protocol):
    async def add(self, reply: Reply, reserved_tokens: int = 0) -> None:
        """`reserved_tokens` count as used by the conversation's user until the reply ends."""
        ...

    async def unsettled(self, *conversation_ids: str) -> list[str]:
        """Ids of the conversations' replies that have not ended."""
        ...

    async def queued(self) -> int:
        """How many replies wait to be made."""
        ...

    async def progress(self, reply_id: str) -> Progress | None:
        """Where the log stands; None when there is no such reply."""
        ...

    async def unsettled_of(self, user_id: str) -> list[str]:
        """Ids of the user's replies that have not ended.

        All their conversations are held until the end of the unit: no reply in them begins or ends meanwhile.
        """
        ...

    async def unsettled_above(self, parent_id: str | None) -> list[str]:
        """Ids of the replies at or above the message `parent_id` that have not ended, nearest first."""
        ...

    async def request_stop(self, reply_id: str) -> ReplyStatus | None:
        """Settle a reply that waits as STOPPED with what it had shown, or flag a STREAMING one for its owner.

        The status found; None if absent.
        """
        ...

    async def claimable(self) -> bool:
        """Whether a queued reply waits for nobody."""
        ...

    async def claim(self, owner: str, limit: int) -> list[Lease]:
        """Take queued replies that wait for nobody, oldest first, and make them STREAMING under `owner`.

        Two claimers never get the same one, and one whose heartbeat is gone gets none. Each claim raises `attempt` and
        logs StatusChanged.
        """
        ...

    async def held(self, owner: str) -> list[Held]:
        """The STREAMING replies of an owner."""
        ...


WHOLE_LOG = 2**31 - 1
"""As a limit of `Log.after`: all of it."""


class Turns(Protocol):
    async def add(self, turn: Turn, reserved_tokens: int = 0, owner: str | None = None) -> None:
        """Comes last: the unit's users are told of it by now.

        `reserved_tokens` count as used by the conversation's user until it ends. A QUEUED reply waits for the first of
        `unsettled_above`. One that is STREAMING as it is stored is the `owner`'s, as if claimed: its log begins with
        that event, and there must be nobody above that it would wait for.
        """
        ...


class Log(Protocol):
    async def settle(self, entry: FlushEntry) -> None:
        """Append the last events and store the end of a reply without an owner, which this unit of work holds."""
        ...

    async def begin(self, reply_id: str, parts: Sequence[MessagePart]) -> None:
        """Let a reply that is being added begin with parts that an earlier one had."""
        ...

    async def after(self, reply_id: str, seq: int, limit: int) -> list[LoggedEvent]:
        """Events with numbers above `seq`, in order."""
        ...

    async def news(self, positions: Mapping[str, int], limit: int) -> dict[str, list[LoggedEvent]]:
        """What follows each reply's position, at most `limit` events of each, in order.

        A reply whose log is gone, wholly or because it was swept, has no entry.
        """
        ...

    async def sweep(self, finished_before: datetime) -> int:
        """Remove the logs of replies that ended before that instant, some at a time. Returns the number of events.

        Their messages keep the folded parts.
        """
        ...


class Workers(Protocol):
    """Heartbeats, one row per process, by the database's clock where several processes can meet."""

    async def enter(self, owner: str) -> None:
        """The first heartbeat under a name that nobody had before."""
        ...

    async def beat(self, owner: str) -> bool:
        """False when there is no heartbeat to renew: others have buried this owner, whose name must not come back."""
        ...

    async def leave(self, owner: str) -> None: ...

    async def forget_all(self) -> None:
        """Void every lease: at the start of the only server of an embedded database."""
        ...

    async def orphans(self, lease_seconds: float, limit: int) -> list[Lease]:
        """Leases of STREAMING replies whose owner has not beaten for that long, at most so many.

        The owners' heartbeats are removed: whatever they had not yet committed never will be. The replies are held
        until the end of the unit; what others hold is left out. After a start of the database nobody counts as silent
        until everybody has had a lease's time to beat again.
        """
        ...

    async def disown(self, reply_id: str, attempt: int) -> None:
        """Give a reply up: it is an orphan at once. Nothing when the lease was lost already."""
        ...

    async def requeue(self, lease: Lease, ended: HandOver, events: Sequence[ReplyEvent] = ()) -> None:
        """Put an orphan back into the queue, to be gone on with, and count the rescue.

        `events` are what else its readers are told first.
        One that somebody wants stopped is settled as STOPPED instead. Nothing when the lease was lost already.
        """
        ...


class IdempotencyKeys(Protocol):
    async def reserve(self, user_id: str, operation: str, key: str, fingerprint: str) -> KnownKey | None:
        """Take the key, or say what it stood for. Of several at once one takes it; the others wait for its commit."""
        ...

    async def keep(self, user_id: str, operation: str, key: str, result: Mapping[str, str | None]) -> None: ...

    async def sweep(self, used_before: datetime) -> int: ...


class Feed(Protocol):
    """What happened to each user's conversations, numbered from 1 by one counter per user.

    A number without an event stands for more than can be told, and for what was swept: query anew.
    """

    def add(
        self,
        user_id: str,
        kind: Change,
        conversation_id: str,
        message_id: str | None = None,
        tool_call_id: str | None = None,
    ) -> None:
        """Remember an event; the unit's `commit` numbers and stores it. The same one twice in a unit is one event.

        Numbers are given as the last thing before the commit, under a lock that lasts until then: whoever sees an
        event can see every one of the user's with a lower number.
        """
        ...

    async def newest(self, user_id: str) -> int:
        """The number of the user's last event, also after that was swept; 0 before the first."""
        ...

    async def positions(self, user_ids: Sequence[str]) -> dict[str, int]:
        """`newest` of each of them that exists."""
        ...

    async def after(self, user_id: str, seq: int, limit: int) -> tuple[int, list[ConversationEvent]]:
        """`newest`, and the user's events with numbers above `seq`, in order; what was swept is missing there."""
        ...

    async def sweep(self, age: timedelta) -> None:
        """Remove events of at least that age, some at a time. The counters stay."""
        ...


class UnitOfWork(Protocol):
    """One transaction. What was not committed when the context is left is rolled back.

    Raises Unavailable on entering when the database cannot be reached, StorageError when it fails in mid-work.
    """

    @property
    def connection(self) -> Any:  # noqa: ANN401  a library's, which is not known here
        """The database's own, for a tool's tables that are not ours; what runs there must not commit."""
        ...

    @property
    def users(self) -> Users: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def api_keys(self) -> ApiKeys: ...
    @property
    def rates(self) -> Rates: ...
    @property
    def budgets(self) -> Budgets: ...
    @property
    def conversations(self) -> Conversations: ...
    @property
    def messages(self) -> Messages: ...
    @property
    def replies(self) -> Replies: ...
    @property
    def turns(self) -> Turns: ...
    @property
    def tool_calls(self) -> ToolCalls: ...
    @property
    def tasks(self) -> Tasks: ...
    @property
    def log(self) -> Log: ...
    @property
    def workers(self) -> Workers: ...
    @property
    def keys(self) -> IdempotencyKeys: ...
    @property
    def feed(self) -> Feed: ...

    async def commit(self) -> None: ...


class Storage(Protocol):
    @property
    def embedded(self) -> bool:
        """True when this process is the only server that may use the database."""
        ...

    async def flush(self, owner: str, entries: Sequence[FlushEntry]) -> FlushReport:
        """Append the events and end what has ended, in one transaction that is committed when this returns.

        An entry counts only while its lease holds and its owner's heartbeat is there. The heartbeat is locked
        meanwhile, so no takeover commits beside it. A lost lease affects its own entry only. Sending an entry again
        whose first commit was not confirmed changes nothing.
        """
        ...

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]: ...

    def peek(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit for a single reading statement, which needs no transaction: on a server one round trip."""
        ...

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit that sees one snapshot of the database from beginning to end, and must not change it."""
        ...
