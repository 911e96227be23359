"""One accepted answer as payloads, read within time limits: server-sent events, or one whole JSON document.

Knows bytes and time. What a payload means is in `frames.py`, what an event is in `sse.py`.
"""

import asyncio
from collections.abc import Mapping

from providers.body import Body
from providers.errors import TRANSPORT_FAILURES
from providers.sse import MAX_EVENT_BYTES, EventTooLargeError, SseSplitter

USAGE_GRACE = 5.0
"""Seconds granted after the finish reason for the usage to arrive."""
END_GRACE = 0.25
"""Seconds granted after [DONE] for the end of the body, so that the connection can be used again."""


class Answer:
    """The payloads of one answer, and `request_id`, the endpoint's own name for it.

    `read_limit` is what each read may take, in seconds; `deadline` bounds all of them, on the event loop's clock.
    """

    def __init__(self, headers: Mapping[str, str], body: Body, read_limit: float, deadline: float) -> None:
        self.request_id = headers.get("x-request-id")
        self._body = body
        self._read_limit = read_limit
        self._deadline = deadline
        self._whole = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        self._splitter = SseSplitter()
        self._now = asyncio.get_running_loop().time
        self._done = False
        self._ended = False

    async def read(self, *, ending: bool) -> list[bytes] | None:
        """The payloads that the next read completes, perhaps none; None at the end.

        With `ending` the rest is not worth much: it is waited for briefly, and a failure counts as the end. Raises
        TimeoutError, EventTooLargeError and what the client libraries raise.
        """
        if self._ended:
            return None
        if not (ending or self._done):
            return await self._next()
        self._deadline = min(self._deadline, self._now() + (END_GRACE if self._done else USAGE_GRACE))
        try:
            return await self._next()
        except (*TRANSPORT_FAILURES, EventTooLargeError):
            return None

    def pause(self) -> None:
        """Nothing needs to be seen before the next read."""
        self._body.pause()

    async def _next(self) -> list[bytes]:
        if self._whole:
            self._ended = True
            return [await self._document()]
        piece = self._arrived() or await self._more()
        if piece:
            return self._without_done(self._splitter.feed(piece))
        self._ended = True
        return self._without_done(self._splitter.rest())

    def _without_done(self, payloads: list[bytes]) -> list[bytes]:
        if b"[DONE]" in payloads:
            self._done = True
            return payloads[: payloads.index(b"[DONE]")]
        return payloads

    async def _document(self) -> bytes:
        pieces: list[bytes] = []
        while piece := self._arrived() or await self._more():
            pieces.append(piece)
            if sum(map(len, pieces)) > MAX_EVENT_BYTES:
                raise EventTooLargeError
        return b"".join(pieces)

    def _arrived(self) -> bytes:
        if self._now() >= self._deadline:
            raise TimeoutError
        return self._body.arrived()

    async def _more(self) -> bytes:
        if self._body.at_end():
            return b""
        async with asyncio.timeout_at(min(self._deadline, self._now() + self._read_limit)):
            return await self._body.more()
