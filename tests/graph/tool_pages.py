"""What clients ask about tool calls, and a page that shows a reply with some: it knows the documentation only."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from copy import deepcopy
from typing import Any

from tests.graph.protocol import Socket, raw_socket
from tests.serving import Serving

CALL = """id name title status arguments argumentsText result error errorCode startedAt finishedAt
  approval { requestedAt expiresAt decidedAt decision comment }"""
PARTS = f"parts {{ __typename id index ... on TextPart {{ text }} ... on ToolCallPart {{ toolCall {{ {CALL} }} }} }}"
SEND = """mutation ($tools: [String!], $text: String = "Write to Ada.") {
  sendMessage(input: {text: $text, settings: {tools: $tools}}) {
    conversation { id settings { toolChoice tools { name } } } reply { id } errors { __typename code path } } }"""
REPLY = (
    f"query ($id: ID!) {{ message(id: $id) {{ status text {PARTS} generation {{ steps requests finishReason }} }} }}"
)
STREAM = f"""subscription ($id: ID!, $after: String) {{ replyStream(replyId: $id, after: $after) {{ cursor __typename
  ... on ReplySnapshot {{ reply {{ status {PARTS} }} }}
  ... on ReplyStatusChanged {{ status }}
  ... on PartAdded {{ part {{ __typename id index ... on TextPart {{ text }}
    ... on ToolCallPart {{ toolCall {{ {CALL} }} }} }} }}
  ... on TextDelta {{ partId text }}
  ... on ToolCallArgumentsDelta {{ partId toolCallId argumentsText }}
  ... on ToolCallChanged {{ partId toolCall {{ {CALL} }} }}
  ... on ReplyFinished {{ reply {{ status {PARTS} }} }} }} }}"""
FOLLOW = """subscription { conversationEvents { __typename ... on ToolApprovalRequested {
  toolCall { id status arguments approval { expiresAt } } reply { id } } } }"""
RESOLVE = f"""mutation ($input: ResolveToolCallInput!) {{ resolveToolCall(input: $input) {{
  toolCall {{ {CALL} }} reply {{ id }} errors {{ __typename code message path }} }} }}"""
TOOLS = ["send_letter", "postage"]

Event = dict[str, Any]


async def subscribed(server: Serving, query: str, **variables: Any) -> AsyncGenerator[Event, None]:
    """The events of a subscription over a socket of its own."""
    async with raw_socket(server.url) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init")
        await socket.receive()
        await socket.send(type="subscribe", id="1", payload={"query": query, "variables": variables})
        while (message := await socket.receive())["type"] == "next":
            (event,) = message["payload"]["data"].values()
            yield event


class Page:
    """What a client shows of a reply: it applies events as the documentation says, and knows nothing else."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.cursor: str | None = None
        self.status = ""
        self.parts: list[Event] = []
        for event in events:
            self.apply(event)

    def apply(self, told: Event) -> None:
        event = deepcopy(told)
        self.cursor = event["cursor"]
        match event["__typename"]:
            case "ReplySnapshot" | "ReplyFinished":
                self.status, self.parts = event["reply"]["status"], event["reply"]["parts"]
            case "ReplyStatusChanged":
                self.status = event["status"]
            case "PartAdded":
                self.parts.append(event["part"])
            case "TextDelta":
                self._part(event)["text"] += event["text"]
            case "ToolCallArgumentsDelta":
                call = self._part(event)["toolCall"]
                assert call["id"] == event["toolCallId"]
                call["argumentsText"] += event["argumentsText"]
            case "ToolCallChanged":
                self._part(event)["toolCall"] = event["toolCall"]

    def _part(self, event: Event) -> Event:
        return next(part for part in self.parts if part["id"] == event["partId"])

    @property
    def call(self) -> Event:
        calls: list[Event] = [part["toolCall"] for part in self.parts if part["__typename"] == "ToolCallPart"]
        return calls[-1]


async def sent(server: Serving) -> str:
    payload = (await server.ask(SEND, tools=TOOLS))["sendMessage"]
    assert payload["errors"] == []
    return str(payload["reply"]["id"])


async def waiting(server: Serving, reply_id: str) -> Page:
    """The reply when it waits for its user."""
    page = Page()
    async with aclosing(subscribed(server, STREAM, id=reply_id)) as events:
        async for event in events:
            page.apply(event)
            if page.status == "AWAITING_APPROVAL":
                return page
    raise AssertionError("the reply ended")


async def resolved(server: Serving, call: Event, decision: str, **more: Any) -> Event:
    payload: Event = (await server.ask(RESOLVE, input={"toolCallId": call["id"], "decision": decision} | more))[
        "resolveToolCall"
    ]
    return payload


async def to_the_end(server: Serving, reply_id: str, after: str | None = None) -> list[Event]:
    """What is read from the cursor on."""
    return [event async for event in subscribed(server, STREAM, id=reply_id, after=after)]


async def ended(server: Serving, reply_id: str) -> Page:
    return Page(await to_the_end(server, reply_id))
