"""Events that are answered by a plan look exactly as normal execution would show them, whatever is selected."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

from graphql import validate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from domain.accounts import Client
from domain.authentication import LOCAL
from domain.events import StatusChanged, TextDelta
from domain.replies import ReplyStatus
from domain.streaming import ArgumentsWritten, StreamedEvent
from graph.context import Caller, Context, Services
from graph.encoded import EncodedResult, encoded
from graph.limits import parsed
from graph.schema import build_schema

EVENTS = (
    StreamedEvent("msg_1", 'a"\\cursor', TextDelta(0, 'word 😀 \n\u2028\x00 "quoted" \\')),
    StreamedEvent("msg_1", "b", TextDelta(3, "")),
    StreamedEvent("msg_1", "c", ArgumentsWritten(1, "call_1", '{"a": 1}')),
    StreamedEvent("msg_1", "d", StatusChanged(ReplyStatus.QUEUED)),
)
FIELDS = {
    "ReplyEvent": ("__typename", "cursor"),
    "TextDelta": ("__typename", "cursor", "partId", "text"),
    "ToolCallArgumentsDelta": ("__typename", "cursor", "partId", "toolCallId", "argumentsText"),
    "ReplyStatusChanged": ("__typename", "cursor", "status"),
}
PLANNED = build_schema()
EXECUTED = build_schema()
EXECUTED.execution_context_class = StrawberryGraphQLCoreExecutionContext


@dataclass
class Few:
    """A stream of EVENTS, and all of `Services` that a subscription uses."""

    @property
    def stream(self) -> "Few":
        return self

    def observe(self, root_field: str, kind: str, outcome: str) -> None:
        pass

    async def follow(
        self, user_id: str, reply_id: str, after: str | None, push: object
    ) -> AsyncGenerator[StreamedEvent, None]:
        return self._play()

    async def _play(self) -> AsyncGenerator[StreamedEvent, None]:
        for event in EVENTS:
            yield event


DIRECTIVES = st.sampled_from(
    ["", "", "", "@include(if: $yes)", "@include(if: $no)", "@skip(if: $no)", "@skip(if: $yes)"]
)


@st.composite
def selections(draw: st.DrawFn, on: str, depth: int = 2, spread: str = "cursor") -> str:
    """What may stand between the braces of `on`, with fragments in fragments, aliases and directives."""
    chosen = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["field", "field", "alias", "inline", "spread"]))
        directive = draw(DIRECTIVES)
        if kind in ("field", "alias"):
            alias = draw(st.sampled_from(["x: ", "text2: "])) if kind == "alias" else ""
            chosen.append(f"{alias}{draw(st.sampled_from(FIELDS[on]))} {directive}")
        elif kind == "inline" and depth:
            within = draw(st.sampled_from(list(FIELDS) if on == "ReplyEvent" else [on, "ReplyEvent"]))
            inner = draw(selections(within, depth - 1, spread))
            chosen.append(f"... on {within} {directive} {{ {inner} }}")
        else:
            chosen.append(f"{spread} {directive}")
    return " ".join(chosen)


@st.composite
def documents(draw: st.DrawFn) -> str:
    root = draw(st.sampled_from(["", "event: "]))
    return (
        f'subscription ($yes: Boolean!, $no: Boolean!) {{ {root}replyStream(replyId: "msg_1") {{ '
        f"cursor @include(if: $yes) @skip(if: $no) {draw(selections('ReplyEvent', 2, '...Words'))} ...Words }} }} "
        f"fragment Words on {(on := draw(st.sampled_from(list(FIELDS))))} {{ {draw(selections(on))} }}"
    )


async def answered(schema: Any, document: str) -> list[tuple[bool, str]]:
    """Each result as JSON text, after whether it was planned."""
    context = Context(cast(Services, Few()), Caller(LOCAL, Client("test")))
    results = await schema.stream(document, {"yes": True, "no": False}, context)
    return [(isinstance(result, EncodedResult), encoded(result).decode()) async for result in results]


@settings(max_examples=150, deadline=None)
@given(documents())
async def test_a_planned_event_reads_as_normal_execution_has_it_to_the_letter(document: str) -> None:
    assume(not validate(PLANNED._schema, parsed(document)))
    planned = [text for _, text in await answered(PLANNED, document)]
    assert planned == [text for _, text in await answered(EXECUTED, document)]


async def test_deltas_are_planned_and_what_needs_resolvers_is_executed() -> None:
    document = 'subscription { replyStream(replyId: "msg_1") { cursor ... on TextDelta { partId text } } }'
    answers = await answered(PLANNED, document)
    assert [planned for planned, _ in answers] == [True, True, True, True]
    status = document.replace("partId text", "text").replace("cursor", "cursor ... on ReplyStatusChanged { status }")
    answers = await answered(PLANNED, status)
    assert [planned for planned, _ in answers] == [True, True, True, False]
    assert json.loads(answers[3][1]) == {"data": {"replyStream": {"cursor": "d", "status": "QUEUED"}}}


async def test_a_selection_that_shows_nothing_of_an_event_is_executed() -> None:
    document = 'subscription { replyStream(replyId: "msg_1") { ... on ReplySnapshot { cursor } } }'
    assert [text for _, text in await answered(PLANNED, document)] == ['{"data":{"replyStream":{}}}'] * 4
