"""A fast OpenAI-compatible endpoint: every token carries its number and its time of departure.

`python -m bench.endpoint PORT`. The last message of the user says how to answer: `tokens=750 rate=50`. A token is
`12,48213456 `: its number and the monotonic clock in tenths of a millisecond, modulo 10^8; the first one has the time
of the request's arrival as a third number. Plain asyncio and no framework, as it shares its core with the clients.
"""

import asyncio
import heapq
import itertools
import json
import re
import sys
import time
from typing import cast

import uvloop

CLOCK_MODULO = 100_000_000
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-request-id: bench\r\n\r\n"
)
FRAME = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1790000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1790000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1790000000,"model":"bench",'
    b'"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    b"data: [DONE]\n\n"
)
SCRIPT = re.compile(r"tokens=(\d+) rate=([\d.]+)")
SLICE_SECONDS = 0.001


def now() -> int:
    """Tenths of a millisecond, by the clock that all processes of a machine share."""
    return time.monotonic_ns() // 100_000 % CLOCK_MODULO


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


class Answer:
    """One reply under way."""

    __slots__ = ("arrived", "interval", "number", "protocol", "tokens")

    def __init__(self, protocol: "Connection", tokens: int, rate: float) -> None:
        self.protocol = protocol
        self.tokens = tokens
        self.interval = 1 / rate
        self.number = 0
        self.arrived = now()

    def step(self) -> bool:
        """Send the next token; False when that was the end."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            return False
        if self.number == self.tokens:
            transport.write(chunk(LAST % (self.tokens, self.tokens + 20)) + b"0\r\n\r\n")
            return False
        token = b"%d,%d " % (self.number, now()) if self.number else b"0,%d,%d " % (now(), self.arrived)
        transport.write(chunk(FRAME % token))
        self.number += 1
        return True


class Pacer:
    """Sends every token at its time, all replies by one timer."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Answer]] = []
        self._order = itertools.count()

    def add(self, answer: Answer) -> None:
        heapq.heappush(self._due, (time.monotonic() + answer.interval, next(self._order), answer))

    async def run(self) -> None:
        while True:
            moment = time.monotonic()
            while self._due and self._due[0][0] <= moment:
                due, order, answer = self._due[0]
                if answer.step():
                    heapq.heapreplace(self._due, (due + answer.interval, order, answer))
                else:
                    heapq.heappop(self._due)
            await asyncio.sleep(SLICE_SECONDS)


class Connection(asyncio.Protocol):
    """As much of HTTP/1.1 as clients of such endpoints use: requests with a content-length, one after another."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found or self.transport is None:
            return
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        self._received = rest[size:]
        self._answer(json.loads(rest[:size]) if size else {})

    def _answer(self, request: dict[str, list[dict[str, object]]]) -> None:
        assert self.transport is not None
        asked = SCRIPT.search(str(request["messages"][-1]["content"]))
        tokens, rate = (int(asked[1]), float(asked[2])) if asked else (1, 1_000.0)
        self.transport.write(HEAD)
        self._pacer.add(Answer(self, tokens, rate))


async def main(port: int) -> None:
    pacer = Pacer()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(pacer), "127.0.0.1", port, backlog=4096)
    async with server:
        await pacer.run()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
