"""The one loop that makes a failed request again. Only while nothing of the answer has been shown.

Knows ProviderError and time, and nothing of HTTP or of any endpoint.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from domain.errors import ProviderError
from domain.models import ChatChunk, ReasoningChunk, RetryChunk, TextChunk, ToolCallChunk
from providers.errors import OptionRefusedError

Sleep = Callable[[float], Awaitable[object]]

_SHOWN = frozenset({TextChunk, ReasoningChunk, ToolCallChunk})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Up to `max_retries` further requests; full jitter below `base * 2**n`, capped; all times in seconds.

    A wait that the endpoint asks for is granted up to `longest_wait`; a longer one makes the failure final.
    """

    max_retries: int = 2
    base: float = 0.5
    cap: float = 8.0
    longest_wait: float = 30.0

    def delay(self, retries: int, error: ProviderError) -> float | None:
        """Seconds to wait after `error` when `retries` were made before; None: give up."""
        if isinstance(error, OptionRefusedError):
            return 0.0
        if not error.retryable or retries >= self.max_retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.longest_wait else None
        return random.uniform(0, min(self.cap, self.base * 2**retries))


async def retrying(
    attempt: Callable[[], AsyncGenerator[ChatChunk, None]],
    policy: RetryPolicy,
    *,
    deadline: float,
    on_retry: Callable[[ProviderError], None],
    sleep: Sleep = asyncio.sleep,
) -> AsyncGenerator[ChatChunk, None]:
    """Yield what `attempt()` yields; before each further attempt a RetryChunk, then the wait.

    Raises the last ProviderError: when it is not retryable, after text, reasoning or a tool call, and when the wait
    would pass `deadline` (on the event loop's clock). Closing it closes the attempt.
    """
    retries = 0
    while True:
        shown = False
        try:
            async with aclosing(attempt()) as chunks:
                async for chunk in chunks:
                    shown = shown or type(chunk) in _SHOWN
                    yield chunk
            return
        except ProviderError as error:
            delay = None if shown else policy.delay(retries, error)
            if delay is None or asyncio.get_running_loop().time() + delay >= deadline:
                raise
            on_retry(error)
            retries += not isinstance(error, OptionRefusedError)
        yield RetryChunk(round(delay * 1000))
        await sleep(delay)
