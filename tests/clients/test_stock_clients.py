"""Stock JavaScript clients: whatever they do when a connection is cut or a server fails, they end with the stored text.

graphql-ws, graphql-sse, and Apollo Client over sockets and over multipart HTTP.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from graphql import GraphQLInterfaceType

from domain.streaming import ReplyStream, StreamedEvent
from graph.schema import build_schema
from tests.clients.scripts import Scripts
from tests.clients.talks import Script, Talks

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLIENTS = pytest.mark.parametrize(
    ("script", "mode"),
    [
        ("sockets.mjs", "resuming"),
        ("sockets.mjs", "replacing"),
        ("sse.mjs", "resuming"),
        ("sse.mjs", "replacing"),
        ("apollo.mjs", "sockets"),
        ("apollo.mjs", "multipart"),
    ],
)


def runs(scripts: Scripts, script: str, mode: str) -> Script:
    def run(url: str, reply_id: str) -> AsyncIterator[Any]:
        return scripts.lines(script, url, reply_id, mode)

    return run


@CLIENTS
@pytest.mark.parametrize("size", ["small", "large"])
async def test_a_client_holds_the_stored_text_after_any_cuts(
    talks: Talks, scripts: Scripts, script: str, mode: str, size: str
) -> None:
    watched = await talks.watched(runs(scripts, script, mode), size, f"{script} {mode}")
    assert watched.held == watched.stored
    assert watched.cuts >= 2


@CLIENTS
async def test_a_client_goes_on_after_the_server_failed_midway(
    talks: Talks, scripts: Scripts, script: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = talks.server.running.services.stream
    failing = FailingAtFirst(stream)
    monkeypatch.setattr(stream, "follow", failing.follow)
    watched = await talks.watched(runs(scripts, script, mode), "small", f"failing {script} {mode}", cut=False)
    assert watched.held == watched.stored
    assert failing.failures == 0


class FailingAtFirst:
    """A reply stream whose first two readers see a failure after their first event."""

    def __init__(self, stream: ReplyStream) -> None:
        self._follow = stream.follow
        self.failures = 2

    async def follow(
        self, user_id: str, reply_id: str, after: str | None, push: object = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        return self._events(await self._follow(user_id, reply_id, after))

    async def _events(self, events: AsyncGenerator[StreamedEvent, None]) -> AsyncGenerator[StreamedEvent, None]:
        async for event in events:
            yield event
            if self.failures:
                self.failures -= 1
                raise RuntimeError("secret")


@CLIENTS
async def test_a_client_does_not_go_on_after_a_refusal(talks: Talks, scripts: Scripts, script: str, mode: str) -> None:
    lines = scripts.lines(script, f"{talks.server.url}/graphql", "msg_absent", mode)
    with pytest.raises(AssertionError, match="There is no reply with this id"):
        [line async for line in lines]


async def test_the_possible_types_of_the_apollo_set_up_are_those_of_the_schema(scripts: Scripts) -> None:
    [told] = [line async for line in scripts.lines("possible-types.mjs")]
    schema = build_schema()._schema
    interfaces = [schema.type_map[name] for name in told]
    assert all(isinstance(interface, GraphQLInterfaceType) for interface in interfaces)
    assert told == {
        interface.name: sorted(each.name for each in schema.get_possible_types(interface))
        for interface in interfaces
        if isinstance(interface, GraphQLInterfaceType)
    }
