"""A TCP proxy on loopback that cuts connections where a test wants: after so many bytes towards the client.

Knows nothing of what passes through it, so a cut falls anywhere: in a handshake, in a frame, in a character.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Each connection takes the next budget of bytes; those that come after the last budget are never cut."""

    def __init__(self, target: str, budgets: Iterable[int]) -> None:
        self._host, _, port = target.removeprefix("http://").partition(":")
        self._port = int(port)
        self._budgets = iter(budgets)
        self.cuts = 0
        self.url = ""

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._host, self._port)
        upward = asyncio.create_task(_pass_on(client, to_server))
        try:
            with suppress(ConnectionError):
                await self._downward(server, to_client, next(self._budgets, None))
        finally:
            upward.cancel()
            to_server.transport.abort()
            self._hang_up(to_client)

    async def _downward(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, left: int | None) -> None:
        while data := await server.read(65_536):
            passed = data[:left]
            to_client.write(passed)
            await to_client.drain()
            if left is not None:
                left -= len(passed)
                if not left:
                    self.cuts += 1
                    return

    def _hang_up(self, to_client: asyncio.StreamWriter) -> None:
        """In turn politely, as a proxy does, and abruptly, as a network does."""
        if self.cuts % 2:
            to_client.close()
        else:
            to_client.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def cutting_proxy(target: str, budgets: Iterable[int] = ()) -> AsyncIterator[Proxy]:
    proxy = Proxy(target, budgets)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
