"""A TCP proxy on loopback that does what networks do: cuts, waits, and swallows without a word.

It stands in front of servers, or of a PostgreSQL on its Unix socket. Knows nothing of what passes through it.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

CHUNK = 65_536


class FaultyProxy:
    """Faults concern every connection there is and every new one, until they are taken back."""

    def __init__(self, target: Path | int) -> None:
        self._target = target
        self._links: set[Link] = set()
        self.delay = 0.0
        """Seconds that everything waits here, in both directions."""
        self.swallows = False
        """Half-open: what comes is taken and goes nowhere, and no side learns of it."""
        self.refuses = False
        self.cuts = 0
        """Connections cut so far."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        return len(self._links)

    def cut_all(self) -> int:
        """Reset every connection now; how many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        self.cuts += len(links)
        return len(links)

    async def cut_every(self, seconds: float) -> None:
        """Cut all again and again until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self.cut_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            reset(writer)
            return
        try:
            there = await self._connect()
        except OSError:
            reset(writer)
            return
        link = Link(self, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(str(self._target))
        return await asyncio.open_connection("127.0.0.1", self._target)


class Link:
    """One connection from here to there; when one side ends, so does the other."""

    def __init__(
        self,
        proxy: FaultyProxy,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._here = here
        self._there = there

    def cut(self) -> None:
        for _, writer in (self._here, self._there):
            reset(writer)

    async def run(self) -> None:
        ways = (self._here[0], self._there[1]), (self._there[0], self._here[1])
        tasks = [asyncio.create_task(self._pass_on(*way)) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(self._proxy.delay)
        finally:
            for task in tasks:
                task.cancel()
            for _, writer in (self._here, self._there):
                writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self._proxy.swallows:
                    continue
                if self._proxy.delay:
                    await asyncio.sleep(self._proxy.delay)
                writer.write(data)
                await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection at once and without a farewell, as a network does."""
    with suppress(OSError):
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


@asynccontextmanager
async def faulty_proxy(target: Path | int) -> AsyncIterator[FaultyProxy]:
    """In front of a port of loopback or of a Unix socket."""
    proxy = FaultyProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=4096)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut_all()
