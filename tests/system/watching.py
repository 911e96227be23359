"""A WebSocket client as simple as one can be: it keeps the text, the cursor and whether the reply has ended."""

import json
from collections.abc import AsyncIterator

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

STREAM = """subscription ($id: ID!, $after: String) { replyStream(replyId: $id, after: $after) {
  cursor __typename
  ... on ReplySnapshot { reply { text status } }
  ... on TextDelta { text }
  ... on ReplyFinished { reply { text status generation { error { code } } } } } }"""


class Watcher:
    def __init__(self, reply_id: str) -> None:
        self.reply_id = reply_id
        self.text = ""
        self.cursor: str | None = None
        self.final: dict[str, object] | None = None

    async def watch(self, url: str) -> AsyncIterator[str]:
        """Follow from where it was left; yields the kind of each event. Raises ConnectionClosed when cut."""
        address = url.replace("http", "ws") + "/graphql"
        async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
            await socket.send('{"type": "connection_init"}')
            await socket.recv()
            variables = {"id": self.reply_id, "after": self.cursor}
            payload = {"query": STREAM, "variables": variables}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
            async for frame in socket:
                message = json.loads(frame)
                if message["type"] == "complete":
                    return
                assert message["type"] == "next", message
                yield self._apply(message["payload"]["data"]["replyStream"])

    def _apply(self, event: dict[str, object]) -> str:
        self.cursor = str(event["cursor"])
        kind = str(event["__typename"])
        if kind == "TextDelta":
            self.text += str(event["text"])
        if kind in ("ReplySnapshot", "ReplyFinished"):
            reply = event["reply"]
            assert isinstance(reply, dict)
            if kind == "ReplySnapshot":
                self.text = reply["text"]
            else:
                self.final = reply
        return kind
