"""People with accounts at a real server: the mutations of accounts, and what each of them sees."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.doubles import ScriptedModel
from tests.serving import Serving, serving, settings_for

PASSWORD, OTHER = "correct horse", "battery staple"
ERRORS = "errors { __typename code message path ... on RateLimitedError { retryAfterMs } }"
SIGNED_IN = f"viewer {{ id email displayName }} accessToken accessTokenExpiresAt refreshToken {ERRORS}"
MUTATIONS = {
    "register": ("RegisterInput", SIGNED_IN),
    "login": ("LoginInput", SIGNED_IN),
    "refreshSession": ("RefreshSessionInput", SIGNED_IN),
    "logout": ("LogoutInput", ERRORS),
    "changePassword": ("ChangePasswordInput", SIGNED_IN),
    "revokeSession": ("RevokeSessionInput", f"deletedId {ERRORS}"),
    "deleteAccount": ("DeleteAccountInput", f"deletedId {ERRORS}"),
    "createApiKey": ("CreateApiKeyInput", f"apiKey {{ id name prefix lastUsedAt expiresAt }} secret {ERRORS}"),
    "revokeApiKey": ("RevokeApiKeyInput", f"deletedId {ERRORS}"),
}
VIEWER = """{ viewer { id email displayName
  sessions { id userAgent current } apiKeys { id name prefix lastUsedAt } quotas { name limit used resetsAt } } }"""
SERVER = "{ server { authentication registrationOpen } }"
SEND = """mutation ($text: String!) { sendMessage(input: {text: $text, waitMs: 5000}) {
  conversation { id } message { id } reply { id text } errors { code } } }"""
TITLES = "{ conversations { totalCount nodes { title } } }"

FORMS: dict[str, dict[str, Any]] = {
    "register": {"email": "a@b", "password": PASSWORD},
    "login": {"email": "a@b", "password": PASSWORD},
    "refreshSession": {"refreshToken": "x"},
    "changePassword": {"currentPassword": PASSWORD, "newPassword": OTHER},
    "revokeSession": {"sessionId": "ses_1"},
    "deleteAccount": {"password": PASSWORD},
    "createApiKey": {"name": "robot"},
    "revokeApiKey": {"apiKeyId": "key_1"},
}


class Person:
    """Somebody at a server, with or without a token."""

    def __init__(self, server: Serving, token: str | None = None) -> None:
        self.server = server
        self.headers = {} if token is None else {"authorization": f"Bearer {token}"}

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return await self.server.ask(query, self.headers, **variables)

    async def do(self, name: str, /, **input_: Any) -> dict[str, Any]:
        """One of the mutations; its payload."""
        type_, selection = MUTATIONS[name]
        query = f"mutation ($input: {type_}!) {{ {name}(input: $input) {{ {selection} }} }}"
        payload: dict[str, Any] = (await self.ask(query, input=input_))[name]
        return payload

    async def done(self, name: str, /, **input_: Any) -> dict[str, Any]:
        payload = await self.do(name, **input_)
        assert payload["errors"] == []
        return payload

    async def refused(self, name: str, /, **input_: Any) -> tuple[str, list[str]]:
        """Code and path of the one error, beside which the payload is empty."""
        payload = await self.do(name, **input_)
        (error,) = payload.pop("errors")
        assert not any(payload.values())
        return error["code"], error["path"]

    async def code(self, query: str = VIEWER) -> str:
        """Why an operation is not executed."""
        body = await self.server.post({"query": query}, self.headers)
        code: str = body["errors"][0]["extensions"]["code"]
        return code

    async def titles(self) -> list[str]:
        return [conversation["title"] for conversation in (await self.ask(TITLES))["conversations"]["nodes"]]


async def registered(server: Serving, email: str = "ada@example.org") -> tuple[Person, dict[str, Any]]:
    payload = await Person(server).done("register", email=email, password=PASSWORD, displayName="Ada")
    return Person(server, payload["accessToken"]), payload


@asynccontextmanager
async def server_with(folder: Path, **settings: Any) -> AsyncIterator[Serving]:
    async with serving(settings_for(folder, **settings), ScriptedModel()) as running:
        yield running
