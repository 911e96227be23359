"""Clients that keep the calls of a reply as well as its text, and say when one of them waits for the user.

A call that had ended and changes again, or whose arguments are not gone on with, is text that was taken back.
"""

import asyncio
from typing import Any

from tests.system.watching import Watcher

CALL = "toolCall { id name status argumentsText arguments result error errorCode approval { decision } }"
PARTS = f"""parts {{ id __typename ... on TextPart {{ text }} ... on ToolCallPart {{ {CALL} }} }}"""
STREAM = f"""subscription ($id: ID!, $after: String) {{ replyStream(replyId: $id, after: $after) {{
  cursor __typename
  ... on ReplySnapshot {{ reply {{ text status {PARTS} }} }}
  ... on ReplyStatusChanged {{ status }}
  ... on PartAdded {{ part {{ id __typename ... on ToolCallPart {{ {CALL} }} }} }}
  ... on TextDelta {{ partId text }}
  ... on ToolCallArgumentsDelta {{ partId argumentsText }}
  ... on ToolCallChanged {{ partId {CALL} }}
  ... on ReplyFinished {{ reply {{ text status generation {{ error {{ code }} }} {PARTS} }} }} }} }}"""
ENDED = frozenset({"SUCCEEDED", "FAILED", "DENIED", "EXPIRED", "CANCELLED"})
Call = dict[str, Any]
Part = dict[str, Any]


def calls_in(parts: list[Part]) -> list[Call]:
    return [part["toolCall"] for part in parts if part["__typename"] == "ToolCallPart"]


class ToolWatcher(Watcher):
    query = STREAM

    def __init__(self, reply_id: str) -> None:
        super().__init__(reply_id)
        self.parts: dict[str, Part] = {}
        self.status = "QUEUED"
        self.waiting: asyncio.Queue[str] = asyncio.Queue()
        """Calls that wait for the user, each once."""
        self._waited: set[str] = set()

    @property
    def calls(self) -> list[Call]:
        return calls_in(list(self.parts.values()))

    def apply(self, event: dict[str, Any]) -> str:
        match event["__typename"]:
            case "ReplySnapshot" | "ReplyFinished":
                self.status = event["reply"]["status"]
                self._replace_parts({part["id"]: part for part in event["reply"]["parts"]})
            case "ReplyStatusChanged":
                self.status = event["status"]
            case "PartAdded":
                self.parts[event["part"]["id"]] = {"text": ""} | event["part"]
            case "TextDelta":
                self.parts[event["partId"]]["text"] += event["text"]
            case "ToolCallArgumentsDelta":
                self.parts[event["partId"]]["toolCall"]["argumentsText"] += event["argumentsText"]
            case "ToolCallChanged":
                self._change(self.parts[event["partId"]], event["toolCall"])
        for call in self.calls:
            if call["status"] == "AWAITING_APPROVAL" and call["id"] not in self._waited:
                self._waited.add(call["id"])
                self.waiting.put_nowait(call["id"])
        return super().apply(event)

    def _replace_parts(self, parts: dict[str, Part]) -> None:
        for id_, shown in self.parts.items():
            now = parts.get(id_, {"__typename": None})
            if shown["__typename"] != now["__typename"]:
                self.seen.taken_back += 1
            elif shown["__typename"] == "ToolCallPart":
                self._change(shown, now["toolCall"])
        self.parts = parts

    def _change(self, part: Part, call: Call) -> None:
        before = part["toolCall"]
        reopened = before["status"] in ENDED and before != call
        if reopened or before["id"] != call["id"] or not call["argumentsText"].startswith(before["argumentsText"]):
            self.seen.taken_back += 1
        part["toolCall"] = call
