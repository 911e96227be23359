"""Tertulia from Python with the `gql` package: send a message, then watch the reply over a WebSocket.

pip install "gql[websockets,aiohttp]"
"""

import asyncio
from collections.abc import AsyncIterator

from gql import Client, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportConnectionFailed, TransportProtocolError
from gql.transport.websockets import WebsocketsTransport
from websockets.exceptions import ConnectionClosed

FORBIDDEN = 4403
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


def bearer(token: str | None) -> dict[str, str]:
    """The header, or the payload of `connection_init`, that shows an access token or an API key."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


async def send(url: str, text: str, token: str | None = None) -> str:
    """Send a message in a new conversation; the id of the reply to it. `token` is needed where there are accounts."""
    request = gql(SEND)
    request.variable_values = {"text": text}
    async with Client(transport=AIOHTTPTransport(url=url, headers=bearer(token))) as session:
        payload = (await session.execute(request))["sendMessage"]
    if payload["errors"]:
        raise RuntimeError(payload["errors"][0]["message"])
    return str(payload["reply"]["id"])


async def watch(url: str, reply_id: str, pause: float = 1, token: str | None = None) -> AsyncIterator[str]:
    """The text so far, whenever it has grown; a cut connection goes on from the cursor.

    Raises TransportQueryError when the server refuses, TransportConnectionFailed when the token holds no longer."""
    text, cursor, finished = "", None, False
    while not finished:
        request = gql(STREAM)
        request.variable_values = {"replyId": reply_id, "after": cursor}
        try:
            transport = WebsocketsTransport(url=url.replace("http", "ws", 1), init_payload=bearer(token))
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
        except (TransportConnectionFailed, TransportProtocolError, OSError) as error:
            if is_forbidden(error.__cause__):
                raise
            await asyncio.sleep(pause)


def is_forbidden(closed: BaseException | None) -> bool:
    """Whether a connection was closed because the token was missing or wrong, or has expired or was revoked."""
    return isinstance(closed, ConnectionClosed) and closed.rcvd is not None and closed.rcvd.code == FORBIDDEN
