"""Whatever is shown by a plan looks exactly as normal execution would show it, whatever is selected."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import pytest
from graphql import GraphQLError, GraphQLObjectType, get_named_type, is_abstract_type, is_leaf_type
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strawberry import Schema
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from domain.accounts import Client
from domain.authentication import LOCAL
from domain.conversations import GenerationSettings, Message, MessagePart, ModelParams, PartKind, Role
from domain.errors import ReplyErrorCode
from domain.events import PartAdded, Retrying, StatusChanged, TextDelta, ToolCallChanged
from domain.replies import FinishReason, Reply, ReplyError, ReplyStatus, Usage
from domain.streaming import ArgumentsWritten, Ended, Snapshot, StreamedEvent
from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus, ToolDecision
from graph.context import Caller, Context, Services
from graph.encoded import EncodedResult, encoded
from graph.operations import prepared
from graph.schema import build_schema

NOW = datetime(2026, 11, 21, 12, 0, 0, 123_000, UTC)
CALL = ToolCall(
    id="call_1",
    name="clock",
    step=1,
    status=ToolCallStatus.SUCCEEDED,
    arguments_text='{"zone": "é"}',
    arguments={"zone": "é", "list": [1, 2.5, None, True]},
    result={"time": "12:00"},
    approval=ToolApproval(NOW, decided_at=NOW, decision=ToolDecision.APPROVE),
    started_at=NOW,
)
PARTS = (
    MessagePart(0, PartKind.REASONING, "hm", duration_ms=12),
    MessagePart(1, PartKind.TOOL_CALL, call=CALL),
    MessagePart(2, PartKind.TEXT, 'said "it" \u2028 😀'),
)


def reply(status: ReplyStatus, **more: Any) -> Reply:
    settings = GenerationSettings("model", "prompt", ModelParams(temperature=0.5, stop=("end",)))
    return Reply("msg_1", "conv_1", status, settings, None, None, 1, 0, 1, False, NOW, **more)


def message(made: Reply | None, parts: tuple[MessagePart, ...] = (), count: int = 3) -> Message:
    cursor = None if made is None else 7
    return Message(
        "msg_1", "conv_1", None, Role.ASSISTANT, NOW, parts, count, {"a": [1, {"b": None}]}, "key", made, cursor
    )


WHOLE = reply(
    ReplyStatus.COMPLETE,
    started_at=NOW,
    finish_reason=FinishReason.STOP,
    usage=Usage(10, 3, cached_input_tokens=1),
    response_model="model-1",
)
FAILED = reply(ReplyStatus.FAILED, error=ReplyError(ReplyErrorCode.STORAGE, "Full.", True, 500))
EVENTS = (
    StreamedEvent("msg_1", "a", Snapshot(message(reply(ReplyStatus.QUEUED)))),
    StreamedEvent("msg_1", 'a"\\cursor', TextDelta(0, 'word 😀 \n\u2028\x00 "quoted" \\')),
    StreamedEvent("msg_1", "b", TextDelta(3, "")),
    StreamedEvent("msg_1", "c", ArgumentsWritten(1, "call_1", '{"a": 1}')),
    StreamedEvent("msg_1", "d", StatusChanged(ReplyStatus.QUEUED)),
    *(StreamedEvent("msg_1", "e", PartAdded(part.index, part.kind, part.call)) for part in PARTS),
    StreamedEvent("msg_1", "f", ToolCallChanged(1, CALL)),
    StreamedEvent("msg_1", "g", Retrying(2, 1_000)),
    StreamedEvent("msg_1", "h", Snapshot(message(None, PARTS))),
    StreamedEvent("msg_1", "i", Snapshot(message(FAILED, PARTS[:1]))),
    StreamedEvent("msg_1", "j", Snapshot(message(WHOLE, PARTS, count=2**31))),
    StreamedEvent("msg_1", "k", Ended(message(WHOLE, PARTS))),
)
EVENT_NAMES = (
    "ReplyEvent",
    "ReplySnapshot",
    "ReplyFinished",
    "TextDelta",
    "ToolCallArgumentsDelta",
    "ReplyStatusChanged",
)
NEED_SERVICES = {"conversation", "siblings", "siblingIndex", "children", "title"}
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
    ["", "", "", "@include(if: $yes)", "@include(if: $no)", "@skip(if: $no)", "@skip(if: $yes)", "@ skip(if: $yes)"]
)


@st.composite
def selections(draw: st.DrawFn, on: str, depth: int = 2, spread: str = "__typename") -> str:
    """What may stand between the braces of `on`, with fragments in fragments, aliases and directives."""
    chosen = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["field", "field", "field", "alias", "inline", "spread"]))
        directive = draw(DIRECTIVES)
        if kind in ("field", "alias"):
            alias = draw(st.sampled_from(["x: ", "text2: "])) if kind == "alias" else ""
            chosen.append(alias + draw(fields(on, depth, directive)))
        elif kind == "inline" and depth:
            within = draw(st.sampled_from(EVENT_NAMES if on == "ReplyEvent" else [on, *interfaces(on), *kinds(on)]))
            inner = draw(selections(within, depth - 1, spread))
            chosen.append(f"... on {within} {directive} {{ {inner} }}")
        else:
            chosen.append(f"{spread} {directive}" if on in EVENT_NAMES else "__typename")
    return " ".join(chosen)


@st.composite
def fields(draw: st.DrawFn, on: str, depth: int, directive: str) -> str:
    of_type = cast(Any, PLANNED._schema.get_type(on)).fields
    leaves = [name for name, field in of_type.items() if is_leaf_type(get_named_type(field.type))]
    name = draw(st.sampled_from([each for each in of_type if depth or each in leaves] + ["__typename"]))
    assume(name not in NEED_SERVICES)
    if name in leaves or name == "__typename":
        return f"{name} {directive}"
    return f"{name} {directive} {{ {draw(selections(get_named_type(of_type[name].type).name, depth - 1))} }}"


def interfaces(name: str) -> list[str]:
    type_ = PLANNED._schema.get_type(name)
    return [each.name for each in type_.interfaces] if isinstance(type_, GraphQLObjectType) else []


def kinds(name: str) -> list[str]:
    type_ = cast(Any, PLANNED._schema.get_type(name))
    return [each.name for each in PLANNED._schema.get_possible_types(type_)] if is_abstract_type(type_) else []


@st.composite
def documents(draw: st.DrawFn) -> str:
    root = draw(st.sampled_from(["", "event: "]))
    return (
        f'subscription ($yes: Boolean!, $no: Boolean!) {{ {root}replyStream(replyId: "msg_1") {{ '
        f"cursor @include(if: $yes) @skip(if: $no) {draw(selections('ReplyEvent', 3, '...Words'))} ...Words }} }} "
        f"fragment Words on {(on := draw(st.sampled_from(EVENT_NAMES)))} {{ {draw(selections(on))} }}"
    )


async def answered(schema: Any, document: str, *, yes: bool = True) -> list[tuple[bool, str]]:
    """Each result as JSON text, after whether it was planned."""
    context = Context(cast(Services, Few()), Caller(LOCAL, Client("test")))
    stream = schema.stream if schema is PLANNED else partial(Schema.stream, schema)
    results = await stream(document, {"yes": yes, "no": False}, context)
    return [(isinstance(result, EncodedResult), shown(result)) async for result in results]


def allowed(document: str) -> bool:
    try:
        return not prepared(PLANNED._schema, document).errors
    except GraphQLError:
        return False


def shown(result: Any) -> str:
    """As JSON; of an error only where it is, as its message may have an id of its own."""
    for error in getattr(result, "errors", None) or ():
        error.message, error.extensions = "", {}
    return encoded(result).decode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(documents())
async def test_a_planned_event_reads_as_normal_execution_has_it_to_the_letter(document: str) -> None:
    assume(allowed(document))
    planned = [text for _, text in await answered(PLANNED, document)]
    assert planned == [text for _, text in await answered(EXECUTED, document)]


async def test_what_has_to_be_awaited_is_executed_and_nothing_else() -> None:
    document = """subscription { replyStream(replyId: "msg_1") { cursor ... on TextDelta { partId text }
        ... on ReplyFinished { reply { id status metadata parts { id ... on TextPart { text } } generation {
            finishReason queuedAt usage { outputTokens } } } }
        ... on ReplySnapshot { reply { text PARENT } } } }"""
    answers = await answered(PLANNED, document.replace("PARENT", ""))
    assert all(planned for planned, _ in answers)
    answers = await answered(PLANNED, document.replace("PARENT", "parent { id }"))
    executed = [json.loads(text) for planned, text in answers if not planned]
    assert [result["data"]["replyStream"]["cursor"] for result in executed] == ["a", "h", "i", "j"]
    assert executed[0]["data"]["replyStream"]["reply"] == {"text": "", "parent": None}


@pytest.mark.parametrize("directive", ["@include", "@ include", "@\n include", "@,include"])
async def test_the_variables_of_one_request_decide_nothing_for_the_next(directive: str) -> None:
    document = (
        "subscription ($yes: Boolean!) "
        f'{{ replyStream(replyId: "msg_1") {{ cursor ... on TextDelta {{ text {directive}(if: $yes) }} }} }}'
    )
    shown = [["text" in text for _, text in await answered(PLANNED, document, yes=yes)] for yes in (False, True)]
    assert not any(shown[0])
    assert any(shown[1])


async def test_a_value_that_the_schema_does_not_allow_is_the_error_that_execution_makes_of_it() -> None:
    document = 'subscription { replyStream(replyId: "msg_1") { cursor ... on ReplySnapshot { reply { tokenCount } } } }'
    wrong = [
        (planned, text) for planned, text in await answered(PLANNED, document) if '"j"' in text or "errors" in text
    ]
    (planned, text) = wrong[0]
    assert not planned
    assert json.loads(text)["errors"][0]["path"] == ["replyStream", "reply", "tokenCount"]


async def test_a_selection_that_shows_nothing_of_an_event_is_an_empty_object() -> None:
    document = 'subscription { replyStream(replyId: "msg_1") { ... on ReplySnapshot { reply { id } } } }'
    answers = await answered(PLANNED, document)
    assert answers[1] == (True, '{"data":{"replyStream":{}}}')
