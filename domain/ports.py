"""The Protocols through which the domain reaches the world, but for its storage (see `storage.py`). Each method's
contract is in its docstring.

Implementations live in `persistence/`, `providers/` and `tertulia/`; every one of a kind passes the same suite in
`tests/contracts/`.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.accounts import Claims
from domain.errors import ProviderError
from domain.models import ChatChunk, ChatRequest, Model
from domain.replies import Lease, Outcome, Usage
from domain.tool_calls import ToolCall


class Clock(Protocol):
    def now(self) -> datetime:
        """The present instant, with UTC as its zone."""
        ...


class Ids(Protocol):
    def new(self, prefix: str) -> str:
        """A fresh id: the prefix, an underscore and a UUIDv7 in hex, so that ids sort by the time they were made."""
        ...


class TokenCounter(Protocol):
    def count(self, model: str, text: str) -> int:
        """Tokens of `text` for `model`, an estimate where its ranks are not known. Never raises."""
        ...

    def is_exact(self, model: str) -> bool:
        """Whether counts for `model` come from its own token ranks."""
        ...


class ChatModel(Protocol):
    def models(self) -> Sequence[Model]:
        """The models on offer; exactly one is the default."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """Ask, and yield what arrives as it arrives; the last chunk is a FinishChunk.

        Failures before the first text are retried inside, each announced by a RetryChunk. Raises ProviderError, also
        for a stream that ends without a finish reason. Closing the iterator closes the request upstream.

        With `unfinished` it yields the continuation as the endpoint sends it: a repetition of the shown text may be
        in it, which Seam drops.
        """
        ...


class EmbeddingModel(Protocol):
    """Makes vectors of texts. Plugins may register some; nothing uses them yet: the search that will does not exist."""

    @property
    def name(self) -> str: ...
    @property
    def dimensions(self) -> int:
        """The length of every vector."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector of each text, in their order. Raises ProviderError."""
        ...


class Notifier(Protocol):
    """Bells without content: a rung bell says "look again", never what there is to see. A bell may be lost."""

    def ring(self, *topics: str) -> None:
        """Wake everybody who listens to one of the topics, in any process (see `topics.elsewhere`); returns at once."""
        ...

    def ring_here(self, *topics: str) -> None:
        """The same in this process alone."""
        ...

    def listen(self, topic: str) -> AbstractAsyncContextManager["Bell"]:
        """Every ring between entering the context and leaving it is noticed by the Bell."""
        ...


class Bell(Protocol):
    async def wait(self, timeout: float) -> bool:
        """Wait for a ring that was not waited for yet, at most `timeout` seconds; whether it rang. Then it is quiet."""
        ...


class PasswordHasher(Protocol):
    async def hash(self, password: str) -> str:
        """A salted hash that names its parameters. Raises Unavailable when too many wait for one already."""
        ...

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Whether it is the password. None stands for a user who is not there: it takes as long, and is False."""
        ...

    def is_outdated(self, hashed: str) -> bool:
        """Whether the hash was made with weaker parameters than `hash` takes now."""
        ...


class TokenIssuer(Protocol):
    def issue(self, claims: Claims) -> str:
        """A signed access token."""
        ...


class TokenReader(Protocol):
    async def read(self, token: str) -> Claims:
        """What an access token says, once its signature, type, issuer, audience and times are checked.

        Raises Unauthenticated with a message that is safe to show, Unavailable when its key cannot be had just now.
        """
        ...


class Telemetry(Protocol):
    """Counts and times for the operator. No method may raise, block or receive content."""

    def provider_called(self, request: ChatRequest, call: "ProviderCall") -> None: ...
    def provider_failed(self, lease: Lease, error: ProviderError) -> None:
        """A reply failed because of its provider; `error.detail` may quote the provider, and through it anybody."""
        ...

    def provider_retried(self, request: ChatRequest, error: Exception) -> None: ...
    def reply_settled(self, lease: Lease, outcome: Outcome) -> None: ...
    def reply_crashed(self, reply_id: str, error: BaseException) -> None: ...
    def tool_called(self, call: ToolCall) -> None:
        """A call of a tool has ended."""
        ...

    def tool_broke(self, call: ToolCall, error: BaseException) -> None:
        """A tool failed unexpectedly; its error may quote the call's arguments, and is for the operator only."""
        ...

    def journal_flushed(self, seconds: float, events: int) -> None: ...
    def worker_renamed(self, owner: str) -> None:
        """Others took this process for dead, and what it made from it; it goes on under that name."""
        ...

    def work_failed(self, error: Exception) -> None:
        """Background work failed and will be tried again."""
        ...

    def stream_opened(self) -> None: ...
    def stream_closed(self) -> None: ...
    def replies_live(self, streaming: int) -> None: ...


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One finished call: `outcome` is a finish reason or an error code; seconds from the request on."""

    outcome: str
    seconds: float
    first_token_seconds: float | None
    usage: Usage
