"""One accepted answer as payloads, read within time limits: server-sent events, or one whole JSON document.

Knows bytes and time. What a payload means is in `frames.py`, what an event is in `sse.py`.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from providers.errors import TRANSPORT_FAILURES
from providers.sse import MAX_EVENT_BYTES, EventTooLargeError, SseSplitter

USAGE_GRACE = 5.0
"""Seconds granted after the finish reason for the usage to arrive."""
READ_BYTES = 16_384
"""What the client library takes at once (CHUNK_SIZE of its aiohttp transport)."""
END_GRACE = 0.25
"""Seconds granted after [DONE] for the end of the body, so that the connection can be used again."""


class Answer:
    """The payloads of one answer, and `request_id`, the endpoint's own name for it.

    `read_limit` is what each read may take, in seconds; `deadline` bounds all of them, on the event loop's clock.
    """

    def __init__(
        self, headers: Mapping[str, str], pieces: AsyncGenerator[bytes, None], read_limit: float, deadline: float
    ) -> None:
        self.request_id = headers.get("x-request-id")
        self._pieces = pieces
        self._read_limit = read_limit
        self._deadline = deadline
        self._whole = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        self._splitter = SseSplitter()
        self._now = asyncio.get_running_loop().time
        self._done = False
        self._ended = False
        self.has_more = False
        """Whether the last read took all that one may take, so that there is probably more."""

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

    async def _next(self) -> list[bytes]:
        if self._whole:
            self._ended = True
            return [await self._document()]
        piece = await self._piece()
        self.has_more = piece is not None and len(piece) >= READ_BYTES
        if piece is None:
            self._ended = True
            return self._without_done(self._splitter.rest())
        return self._without_done(self._splitter.feed(piece))

    def _without_done(self, payloads: list[bytes]) -> list[bytes]:
        if b"[DONE]" in payloads:
            self._done = True
            return payloads[: payloads.index(b"[DONE]")]
        return payloads

    async def _document(self) -> bytes:
        pieces: list[bytes] = []
        while (piece := await self._piece()) is not None:
            pieces.append(piece)
            if sum(map(len, pieces)) > MAX_EVENT_BYTES:
                raise EventTooLargeError
        return b"".join(pieces)

    async def _piece(self) -> bytes | None:
        async with asyncio.timeout_at(min(self._deadline, self._now() + self._read_limit)):
            return await anext(self._pieces, None)
