"""How an MCP server is reached: as a program that is started, or at an address. Knows nothing of tools.

Programs get the library's safe part of our environment and the variables that they were promised, nothing else.
Redirects are followed within the address's origin only: that is the library's rule.
"""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import httpx2
from mcp import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

CONNECT_SECONDS = 30.0
SILENT_SECONDS = 300.0
MAX_EVENT = 16 * 1024 * 1024
"""Bytes of one message that comes as an event; the library knows no limit for others."""
Message = SessionMessage | Exception


class WatchedStream:
    """The messages of a server; `ended` is called when there will be no more."""

    def __init__(self, messages: Any, ended: Callable[[], None]) -> None:  # noqa: ANN401  one of the library's streams
        self._messages = messages
        self._ended = ended

    @property
    def last_context(self) -> Any:  # noqa: ANN401  the library's, where the stream has it
        return getattr(self._messages, "last_context", None)

    async def receive(self) -> Message:
        message: Message = await self._messages.receive()
        return message

    async def aclose(self) -> None:
        await self._messages.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            message: Message = await self._messages.__anext__()
        except BaseException:
            self._ended()
            raise
        return message

    async def __aenter__(self) -> Self:
        await self._messages.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        result: bool | None = await self._messages.__aexit__(kind, error, trace)
        return result


@asynccontextmanager
async def program(
    command: tuple[str, ...], variables: Mapping[str, str], ended: Callable[[], None]
) -> AsyncIterator[tuple[WatchedStream, Any]]:
    """What it writes to its standard error goes to ours. It is ended with the context, in seconds."""
    parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(variables))
    async with stdio_client(parameters, sys.__stderr__ or sys.stderr) as (messages, outbox):
        yield WatchedStream(messages, ended), outbox


@asynccontextmanager
async def address(url: str, token: str | None, ended: Callable[[], None]) -> AsyncIterator[tuple[WatchedStream, Any]]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENT_SECONDS)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
        streamable_http_client(url, http_client=http, max_sse_event_size=MAX_EVENT) as (messages, outbox),
    ):
        yield WatchedStream(messages, ended), outbox
