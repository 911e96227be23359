"""Results as a stream over HTTP: server-sent events and Apollo's multipart, heartbeats, a time limit on sends.

Server-sent events are graphql-sse's "distinct connections mode" (its PROTOCOL.md): every result is a `next` event,
`complete` ends the stream. A refusal (nothing there, not yours, not valid) is a `next` with `errors` and without
`data`, then `complete`, as that protocol demands: its client repeats a request that gets an HTTP error, and the
browser's EventSource tells its page nothing of one. Multipart is Apollo's `subscriptionSpec=1.0`, which wraps each
result in `payload`.

A stream that breaks off must not look whole: then the response ends without its last chunk, which every HTTP client
reports as an error, and the reader resumes. Nothing here knows what is streamed.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from strawberry.types import ExecutionResult

from graph.encoded import EncodedResult, encoded
from graph.execution import Interrupted

Watched = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""While its context lasts, what it was given is called when the caller's right ends."""
PART = b"\r\nContent-Type: application/json; charset=utf-8\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Framing:
    """How one protocol writes results. Each frame ends with what a client needs to act on it at once."""

    content_type: str
    opening: bytes
    before: bytes
    after: bytes
    complete: bytes
    heartbeat: bytes
    heartbeat_seconds: float


SERVER_SENT_EVENTS = Framing(
    content_type="text/event-stream; charset=utf-8",
    opening=b":\n\n",
    before=b"event: next\ndata: ",
    after=b"\n\n",
    complete=b"event: complete\ndata: \n\n",
    heartbeat=b":\n\n",
    heartbeat_seconds=12,
)
MULTIPART = Framing(
    content_type='multipart/mixed;boundary="graphql";subscriptionSpec=1.0',
    opening=b"--graphql" + PART + b"{}\r\n--graphql",
    before=PART + b'{"payload":',
    after=b"}\r\n--graphql",
    complete=b"--\r\n",
    heartbeat=PART + b"{}\r\n--graphql",
    heartbeat_seconds=5,
)


class EventStream(Response):
    """A response that sends results as they come, and closes their generator however it ends.

    It ends early when the client leaves, and when a send takes longer than `send_seconds`: who does not read must
    not hold a generator for ever. While it goes on, its task is in `open_streams`, where it may be cancelled, and
    `watched` may end it because the caller's right has ended.
    """

    def __init__(
        self,
        framing: Framing,
        results: AsyncGenerator[ExecutionResult | EncodedResult, None],
        open_streams: set[asyncio.Task[None]],
        watched: Watched,
        send_seconds: float,
        heartbeat_seconds: float | None = None,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._framing = framing
        self._results = results
        self._open_streams = open_streams
        self._watched = watched
        self._send_seconds = send_seconds
        self._heartbeat_seconds = heartbeat_seconds or framing.heartbeat_seconds
        self._turn = asyncio.Lock()
        self.init_headers(
            {
                "content-type": framing.content_type,
                "cache-control": "no-store, no-transform",
                "x-accel-buffering": "no",  # nginx would gather events instead of passing them on
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = (self._stream(send), self._heartbeats(send), self._client_left(receive))
        tasks = [asyncio.create_task(each) for each in work]
        self._open_streams.add(tasks[0])
        try:
            with self._watched(tasks[0].cancel):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open_streams.discard(tasks[0])
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(ends[0], Exception) and not isinstance(ends[0], TimeoutError):
            raise ends[0]

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._results) as results:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._write(send, self._framing.opening)
            async for result in results:
                if isinstance(result, Interrupted):
                    return
                await self._write(send, self._framing.before + encoded(result) + self._framing.after)
            await self._write(send, self._framing.complete, more=False)

    async def _heartbeats(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            await self._write(send, self._framing.heartbeat)

    async def _write(self, send: Send, frame: bytes, *, more: bool = True) -> None:
        async with self._turn, asyncio.timeout(self._send_seconds):
            await send({"type": "http.response.body", "body": frame, "more_body": more})

    @staticmethod
    async def _client_left(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
