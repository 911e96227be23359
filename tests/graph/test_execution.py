"""What our executor promises: a stream of any length in constant memory, and errors that tell nothing of our own.

The transports' own ways of showing errors are in test_transport_*.py.
"""

import gc
import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from domain.accounts import Client
from domain.authentication import LOCAL
from domain.errors import StorageError
from domain.events import StatusChanged, TextDelta
from domain.replies import ReplyStatus
from domain.streaming import StreamedEvent
from graph.context import Caller, Context, Services
from graph.encoded import EncodedResult, encoded
from graph.execution import Interrupted
from graph.schema import build_schema

EVENTS = 20_000
SETTLED = 2_000
WATCH = """subscription ($id: ID!) { replyStream(replyId: $id) {
  __typename cursor ... on TextDelta { partId text } ... on ReplyFinished { reply { text } } } }"""


class LongStream:
    """Yields so many events, never joined; then fails if it is given a fault."""

    def __init__(
        self,
        events: int,
        fault: Exception | None = None,
        event: TextDelta | StatusChanged = TextDelta(0, "word "),  # noqa: B008  it is frozen
    ) -> None:
        self._events = events
        self._fault = fault
        self._event = event

    async def follow(
        self, user_id: str, reply_id: str, after: str | None, push: object
    ) -> AsyncGenerator[StreamedEvent, None]:
        return self._play(reply_id)

    async def _play(self, reply_id: str) -> AsyncGenerator[StreamedEvent, None]:
        for number in range(self._events):
            yield StreamedEvent(reply_id, str(number), self._event)
        if self._fault is not None:
            raise self._fault


class OnlyAStream:
    def __init__(self, stream: LongStream) -> None:
        self.stream = stream

    def observe(self, root_field: str, kind: str, outcome: str) -> None:
        pass


def context_of(stream: LongStream) -> Context:
    return Context(cast(Services, OnlyAStream(stream)), Caller(LOCAL, Client("test")))


@pytest.mark.parametrize("event", [TextDelta(0, "word "), StatusChanged(ReplyStatus.QUEUED)], ids=["plan", "execution"])
async def test_a_long_subscription_needs_no_more_memory_than_a_short_one(event: TextDelta | StatusChanged) -> None:
    results = await build_schema().stream(WATCH, {"id": "reply"}, context_of(LongStream(EVENTS, event=event)))
    seen, held_at = 0, {}
    tracemalloc.start()
    try:
        async for result in results:
            assert b'"errors"' not in encoded(cast(Any, result))
            seen += 1
            if seen in (SETTLED, EVENTS):  # while it is open: afterwards everything is free
                held_at[seen] = held()
    finally:
        tracemalloc.stop()
    assert held_at[EVENTS] - held_at[SETTLED] < 200_000


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("fault", [RuntimeError("secret"), StorageError("secret")])
async def test_a_subscription_that_fails_midway_is_told_apart_from_one_that_ends(fault: Exception) -> None:
    told: list[BaseException] = []
    schema = build_schema(lambda _, error: told.append(error))
    results = await schema.stream(WATCH, {"id": "reply"}, context_of(LongStream(1, fault)))
    whole, broken = cast(Any, [result async for result in results])
    assert (type(whole), type(broken)) == (EncodedResult, Interrupted)
    assert "secret" not in str(cast(Any, broken).errors)
    assert told == ([fault] if isinstance(fault, RuntimeError) else [])
