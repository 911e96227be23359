"""Tertulia from Python with the `gql` package: send a message, then watch the reply over a WebSocket.

pip install "gql[websockets,aiohttp]"
"""

import asyncio
from collections.abc import AsyncIterator

from gql import Client, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportConnectionFailed, TransportProtocolError
from gql.transport.websockets import WebsocketsTransport

SEND = """
mutation Send($text: String!) {
  sendMessage(input: {text: $text}) { reply { id } errors { code message } }
}"""
STREAM = """
subscription Stream($replyId: ID!, $after: String) {
  replyStream(replyId: $replyId, after: $after) {
    __typename
    cursor
    ... on ReplySnapshot { reply { text } }
    ... on TextDelta { text }
    ... on ReplyFinished { reply { status text } }
  }
}"""


async def send(url: str, text: str) -> str:
    """Send a message in a new conversation; the id of the reply to it."""
    request = gql(SEND)
    request.variable_values = {"text": text}
    async with Client(transport=AIOHTTPTransport(url=url)) as session:
        payload = (await session.execute(request))["sendMessage"]
    if payload["errors"]:
        raise RuntimeError(payload["errors"][0]["message"])
    return str(payload["reply"]["id"])


async def watch(url: str, reply_id: str, pause: float = 1) -> AsyncIterator[str]:
    """The text so far, whenever it has grown; a cut connection goes on from the cursor. Raises TransportQueryError
    when the server refuses."""
    text, cursor, finished = "", None, False
    while not finished:
        request = gql(STREAM)
        request.variable_values = {"replyId": reply_id, "after": cursor}
        try:
            transport = WebsocketsTransport(url=url.replace("http", "ws", 1))
            async with Client(transport=transport) as session:
                async for result in session.subscribe(request):
                    event = result["replyStream"]
                    cursor = event["cursor"]
                    match event["__typename"]:
                        case "TextDelta":
                            text += event["text"]
                        case "ReplySnapshot" | "ReplyFinished":
                            text = event["reply"]["text"]
                    finished = event["__typename"] == "ReplyFinished"
                    yield text
        except (TransportConnectionFailed, TransportProtocolError, OSError):
            await asyncio.sleep(pause)
