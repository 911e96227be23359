"""A tour through everything that the API does and refuses, by the owner of all content, another user and a stranger.

Everything that is answered is kept with who heard it. What is right is asserted elsewhere: here answers are only
searched, and the tour goes on whatever they are.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.system.canaries import Canaries

MESSAGE = "id text status metadata generation { error { code message } responseModel requestId }"
ERRORS = "errors { code message path }"
SIGNED_IN = f"{ERRORS} viewer {{ id email displayName }} accessToken refreshToken"
SENT = f"{ERRORS} conversation {{ id title }} message {{ {MESSAGE} }} reply {{ {MESSAGE} }}"
EVENTS = "... on ReplySnapshot { reply { text } } ... on TextDelta { text } ... on ReplyFinished { reply { text } }"
STREAM = f"subscription ($id: ID!) {{ replyStream(replyId: $id) {{ cursor {EVENTS} }} }}"
FEED = """subscription { conversationEvents(after: "0") { cursor ... on MessageAdded { message { text } } } }"""
READ = f"""query ($conversation: ID!, $message: ID!, $ids: [ID!]!) {{
  viewer {{ id email settings {{ systemPrompt }} sessions {{ id userAgent }} apiKeys {{ id name prefix }} }}
  conversations(first: 3) {{ nodes {{ id title metadata settings {{ systemPrompt }} }} }}
  conversation(id: $conversation) {{ title metadata allMessages(first: 20) {{ nodes {{ {MESSAGE} }} }} }}
  message(id: $message) {{ {MESSAGE} siblings {{ text }} }}
  node(id: $message) {{ id ... on Message {{ text }} }} nodes(ids: $ids) {{ id ... on Message {{ text }} }}
  models {{ name provider }} server {{ version limits {{ maxPageSize }} }} }}"""
SEND = f"mutation ($input: SendMessageInput!) {{ sendMessage(input: $input) {{ {SENT} }} }}"
EDIT = f"mutation ($input: EditMessageInput!) {{ editMessage(input: $input) {{ {SENT} }} }}"
RENAME = f"mutation ($input: RenameConversationInput!) {{ renameConversation(input: $input) {{ {ERRORS} }} }}"
CREATE = (
    f"mutation ($input: CreateConversationInput!) {{ createConversation(input: $input) {{ {ERRORS} "
    "conversation { id title metadata } } }"
)
REGENERATE = (
    f"mutation ($input: RegenerateReplyInput!) {{ regenerateReply(input: $input) {{ {ERRORS} reply {{ id }} }} }}"
)
CONTINUE = f"mutation ($input: ContinueReplyInput!) {{ continueReply(input: $input) {{ {ERRORS} reply {{ id }} }} }}"
STOP = f"mutation ($input: StopReplyInput!) {{ stopReply(input: $input) {{ {ERRORS} reply {{ {MESSAGE} }} }} }}"
REGISTER = f"mutation ($input: RegisterInput!) {{ register(input: $input) {{ {SIGNED_IN} }} }}"
LOGIN = f"mutation ($input: LoginInput!) {{ login(input: $input) {{ {SIGNED_IN} }} }}"
REFRESH = f"mutation ($input: RefreshSessionInput!) {{ refreshSession(input: $input) {{ {SIGNED_IN} }} }}"
CHANGE = f"mutation ($input: ChangePasswordInput!) {{ changePassword(input: $input) {{ {SIGNED_IN} }} }}"
NEW_KEY = f"mutation ($input: CreateApiKeyInput!) {{ createApiKey(input: $input) {{ {ERRORS} secret }} }}"
DELETE = f"mutation ($input: DeleteAccountInput!) {{ deleteAccount(input: $input) {{ {ERRORS} deletedId }} }}"
LOGOUT = f"mutation ($input: LogoutInput!) {{ logout(input: $input) {{ {ERRORS} }} }}"


class Tourist:
    """Somebody who asks one server, and which canaries they may be told."""

    def __init__(self, http: aiohttp.ClientSession, url: str, canaries: Canaries, name: str) -> None:
        self._http = http
        self.url = url
        self._canaries = canaries
        self._name = name
        self.may_know: set[str] = set()
        self.token: str | None = None

    async def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The data, empty where there is none."""
        answered = await self.request("POST", "/graphql", json={"query": query, "variables": variables})
        try:
            return dict(json.loads(answered).get("data") or {})
        except ValueError:
            return {}

    async def do(self, mutation: str, **given: object) -> dict[str, Any]:
        """What a mutation of this input answers."""
        data = await self.ask(mutation, input=given)
        return dict(next(iter(data.values()), None) or {})

    async def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> str:
        """The answer's head and body are kept; the body is returned."""
        shown = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            async with self._http.request(
                method, f"{self.url}{path}", headers=shown | dict(headers or {}), allow_redirects=False, **more
            ) as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = type(error).__name__
        else:
            self._hears(f"{method} {path[:30]}", f"{response.status} {dict(response.headers)}\n{text}")
        return text

    async def socket(self, *frames: object, protocol: str = "graphql-transport-ws", origin: str = "") -> None:
        """Everything that comes until the socket is silent or closed."""
        address = self.url.replace("http", "ws") + "/graphql"
        given = {"origin": Origin(origin)} if origin else {}
        try:
            async with connect(address, subprotocols=[Subprotocol(protocol)], open_timeout=5, **given) as socket:  # type: ignore[arg-type]
                for frame in frames:
                    await socket.send(frame if isinstance(frame, str) else json.dumps(frame))
                try:
                    while True:
                        self._hears("a socket", await self._received(socket))
                finally:
                    self._hears("a close frame", f"{socket.close_code} {socket.close_reason}")
        except InvalidStatus as refused:
            self._hears("a refused socket", f"{refused.response.status_code} {refused.response.body!r}")
        except (ConnectionClosed, TimeoutError, OSError):
            return

    async def _received(self, socket: Any) -> str:
        async with asyncio.timeout(0.3):
            return str(await socket.recv())

    def _hears(self, source: str, text: str) -> None:
        self._canaries.hears(f"an answer to the {self._name} ({source})", text, self.may_know)

    def init(self) -> dict[str, object]:
        return {"type": "connection_init", "payload": {"authorization": f"Bearer {self.token}"}}


def subscribe(query: str, **variables: object) -> dict[str, object]:
    return {"id": "1", "type": "subscribe", "payload": {"query": query, "variables": variables}}


async def sign_up(tourist: Tourist, email: str, password: str) -> str:
    """The refresh token."""
    payload = await tourist.do(REGISTER, email=email, password=password, displayName="Somebody")
    if not payload.get("accessToken"):
        payload = await tourist.do(LOGIN, email=email, password=password)
    tourist.token = payload["accessToken"]
    return str(payload["refreshToken"])


async def talk(owner: Tourist, canaries: Canaries, ways: Sequence[str]) -> tuple[str, str, str]:
    """All that can be done with conversations. The ids of a conversation, a message and its reply."""
    metadata, settings = {"note": canaries["metadata"]}, {"systemPrompt": canaries["system prompt"]}
    made = await owner.do(CREATE, title=canaries["title"], metadata=metadata, settings=settings)
    conversation = made["conversation"]["id"]
    sent = await owner.do(SEND, conversationId=conversation, text=canaries["prompt"], waitMs=20_000, metadata=metadata)
    message, reply = sent["message"]["id"], sent["reply"]["id"]
    for way in ways:
        await owner.do(SEND, text=f"{canaries['prompt']} [{way}]", waitMs=30_000)
    await owner.do(EDIT, messageId=message, text=f"{canaries['prompt']} again", waitMs=0)
    await owner.do(REGENERATE, replyId=reply, instruction=canaries["prompt"])
    await owner.do(CONTINUE, replyId=reply)
    await owner.do(STOP, replyId=reply)
    await owner.do(RENAME, conversationId=conversation, title=f"{canaries['title']} anew")
    await look(owner, conversation, message, reply)
    return conversation, message, reply


async def look(tourist: Tourist, conversation: str, message: str, reply: str) -> None:
    """Everything that can be read, by every transport."""
    await tourist.ask(READ, conversation=conversation, message=message, ids=[message, reply, conversation])
    for query in (STREAM, FEED):
        body = {"query": query, "variables": {"id": reply}}
        for accept in ("text/event-stream", "multipart/mixed;subscriptionSpec=1.0"):
            if query == STREAM:
                await tourist.request("POST", "/graphql", {"accept": accept}, json=body)
        await tourist.socket(tourist.init(), subscribe(query, id=reply))


async def go_wrong(tourist: Tourist, canaries: Canaries) -> None:
    """Requests that are refused, with canaries where they are wrong."""
    password, prompt = canaries["typed password"], canaries["typed text"]
    literal = f'mutation {{ login(input: {{email: "a@example.com", password: "{password}"}}) {{ nothing }} }}'
    for query in (
        literal,
        literal[:-4],
        literal.replace("login", prompt),
        f'{{ node(id: "{prompt}" }}',
        f"{{ {prompt} }}",
    ):
        await tourist.ask(query)
    for given in ({"password": password}, {"email": 1, "password": password}, {"email": "x", "password": [password]}):
        await tourist.do(LOGIN, **given)
    await tourist.do(LOGIN, email="no address", password=password)
    await tourist.do(LOGIN, email="nobody@example.com", password=password)
    await tourist.do(REGISTER, email="short@example.com", password=password[:7])
    await tourist.do(REGISTER, email="long@example.com", password=password * 20)
    await tourist.do(SEND, text=prompt, conversationId=prompt, settings={"model": prompt})
    await tourist.do(SEND, text=prompt, settings={"params": {"temperature": prompt}})
    await tourist.do(SEND, text=prompt * 10_000)
    await tourist.do(CHANGE, currentPassword="wrong " + password, newPassword=password)
    body = json.dumps({"query": LOGIN, "variables": {"input": {"email": "a@example.com", "password": password}}})
    for kind, data in (("text/plain", body), ("application/json", body[:-3]), ("application/json", f"[{body}]")):
        await tourist.request("POST", "/graphql", {"content-type": kind}, data=data)
    await tourist.request("GET", "/graphql", params={"query": literal.replace("nothing", "errors { code }")})
    await tourist.request("GET", f"/{prompt}")
    await tourist.request("PUT", "/graphql", {"host": f"{prompt}.example.com"}, data=prompt)
    await tourist.request(
        "OPTIONS", "/graphql", {"origin": f"https://{prompt}", "access-control-request-method": "POST"}
    )
    for token in (f"tk_{prompt}", f"tk_{password}", f"{prompt}.{prompt}.{prompt}"):
        for scheme in ("Bearer", "Basic"):
            await tourist.request(
                "POST", "/graphql", {"authorization": f"{scheme} {token}"}, json={"query": "{viewer{id}}"}
            )
    await _go_wrong_by_socket(tourist, prompt, password)


async def _go_wrong_by_socket(tourist: Tourist, prompt: str, password: str) -> None:
    await tourist.socket({"type": "connection_init", "payload": {"authorization": f"Bearer {password}"}})
    await tourist.socket(tourist.init(), subscribe(f"{{ {prompt} }}"))
    await tourist.socket(tourist.init(), subscribe(LOGIN, input={"password": password}))
    await tourist.socket(tourist.init(), {"type": prompt, "id": password})
    await tourist.socket(f"{{{prompt}")
    await tourist.socket({"type": "connection_init", "payload": prompt})
    await tourist.socket(tourist.init(), protocol="graphql-ws")
    await tourist.socket(tourist.init(), origin="https://elsewhere.example.com")


async def look_around(tourist: Tourist, metrics_token: str) -> None:
    for path in ("/", "/healthz", "/readyz", "/metrics", "/graphiql", "/openapi.json", "/docs"):
        await tourist.request("GET", path)
        await tourist.request("GET", path, {"accept": "text/html", "authorization": f"Bearer {metrics_token}"})
