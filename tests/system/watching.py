"""WebSocket clients as simple as they can be: they keep the text, the cursor and whether the reply has ended.

They also keep what must never happen: an event that came twice, and text that was shown and then taken back.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Subprotocol

from tests.system.tokens import departures

STREAM = """subscription ($id: ID!, $after: String) { replyStream(replyId: $id, after: $after) {
  cursor __typename
  ... on ReplySnapshot { reply { text status } }
  ... on TextDelta { text }
  ... on ReplyFinished { reply { text status generation { error { code } } } } } }"""
OPEN_SECONDS = 5.0
LOST = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, TimeoutError, EOFError)


class Refused(Exception):
    """The subscription was answered with an error, which is its code."""


@dataclass
class Seen:
    """What a reader went through beside the text."""

    cursors: set[str] = field(default_factory=set)
    doubled: list[str] = field(default_factory=list)
    taken_back: int = 0
    snapshots: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    """Seconds from the departure of a token to its arrival here; without those of snapshots."""
    last_event: float = 0.0
    resumed: list[float] = field(default_factory=list)
    """When the first event after each loss of the connection came."""


class Watcher:
    query = STREAM

    def __init__(self, reply_id: str) -> None:
        self.reply_id = reply_id
        self.text = ""
        self.cursor: str | None = None
        self.final: dict[str, object] | None = None
        self.seen = Seen()
        self._is_cut = False

    async def watch(self, url: str, silence: float | None = None) -> AsyncIterator[str]:
        """Follow from where it was left; yields the kind of each event. Raises ConnectionClosed when cut.

        With `silence`, raises TimeoutError when nothing comes for so many seconds.
        """
        address = url.replace("http", "ws") + "/graphql"
        protocols = [Subprotocol("graphql-transport-ws")]
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 1, "max_size": None}
        async with connect(address, subprotocols=protocols, open_timeout=OPEN_SECONDS, **options) as socket:
            await self._subscribe(socket)
            while True:
                async with asyncio.timeout(silence):
                    message = json.loads(await socket.recv())
                if message["type"] == "complete":
                    return
                if message["type"] == "error":
                    raise Refused(message["payload"][0].get("extensions", {}).get("code"))
                assert message["type"] == "next", message
                yield self.apply(message["payload"]["data"]["replyStream"])

    async def _subscribe(self, socket: ClientConnection) -> None:
        await socket.send('{"type": "connection_init"}')
        async with asyncio.timeout(OPEN_SECONDS):
            await socket.recv()
        payload = {"query": self.query, "variables": {"id": self.reply_id, "after": self.cursor}}
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))

    async def follow(self, address: Callable[[int], str], first: int = 0, silence: float | None = None) -> None:
        """Until the reply has ended, whatever breaks: each time the connection goes to the next process."""
        place = first
        while self.final is None:
            try:
                async for _ in self.watch(address(place), silence):
                    pass
                self.seen.cuts["complete"] += self.final is None
            except ConnectionClosed as closed:
                self.seen.cuts[str(closed.rcvd.code if closed.rcvd else "cut")] += 1
            except Refused as refused:
                if str(refused) != "UNAVAILABLE":
                    raise
                self.seen.cuts["UNAVAILABLE"] += 1
            except LOST:
                self.seen.cuts["refused"] += 1
            if self.final is None:
                self._is_cut = True
                place += 1
                await asyncio.sleep(0.1)

    def apply(self, event: dict[str, Any]) -> str:
        """Take in one event as a client does; returns its kind."""
        kind, cursor, now = event["__typename"], event["cursor"], time.monotonic()
        self._note(kind, cursor, now)
        if kind == "TextDelta":
            self.text += event["text"]
            self.seen.delays += [now - departure for departure in departures(event["text"])]
        elif kind == "ReplySnapshot":
            self._replace(event["reply"]["text"])
            self.seen.snapshots += 1
        elif kind == "ReplyFinished":
            self.final = event["reply"]
        self.cursor = cursor
        return str(kind)

    def _note(self, kind: str, cursor: str, now: float) -> None:
        """A snapshot repeats a number on purpose, and so does the end of a reply that had ended before."""
        seen = self.seen
        if cursor in seen.cursors and kind not in ("ReplySnapshot", "ReplyFinished"):
            seen.doubled.append(cursor)
        if self.final is not None:
            seen.doubled.append(cursor)
        seen.cursors.add(cursor)
        seen.last_event = now
        if self._is_cut:
            seen.resumed.append(now)
            self._is_cut = False

    def _replace(self, text: str) -> None:
        if not text.startswith(self.text):
            self.seen.taken_back += 1
        self.text = text
