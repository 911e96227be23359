"""Stock clients with accounts: an access token that ends in the middle of a reply costs no text and one refresh."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gql.transport.exceptions import TransportConnectionFailed, TransportQueryError

from domain import authentication
from domain.account_service import AccountService, SignedIn
from domain.accounts import ACCESS_LIFETIME, Client
from domain.ports import Clock
from domain.streaming import Push, ReplyStream, StreamedEvent
from tests.clients.gql_client import send, watch
from tests.clients.scripts import Scripts
from tests.gated import GatedModel
from tests.security.test_sessions import ShiftedClock
from tests.serving import Serving, serving, settings_for

EMAIL, PASSWORD = "ada@example.com", "correct horse battery"
PIECES = ["Nothing ", "is lost, ", "nothing ", "is doubled."]
SOCKETS, STREAMS = ["apollo", "urql", "relay"], ["multipart", "sse"]
WAYS = [*SOCKETS, *STREAMS]
LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { accessToken errors { message } } }"
REGISTER = "mutation ($input: RegisterInput!) { register(input: $input) { accessToken errors { message } } }"
LOGOUT = "mutation { logout(input: {everywhere: true}) { errors { message } } }"
STORED = "query ($id: ID!) { message(id: $id) { status text } }"


@dataclass
class Observed:
    """What the clients of one server asked for."""

    refreshed: int = 0
    after: list[str | None] = field(default_factory=list)

    def watch(self, accounts: AccountService, stream: ReplyStream, patch: pytest.MonkeyPatch) -> None:
        refresh, follow = accounts.refresh, stream.follow

        async def counted(token: str, client: Client) -> SignedIn:
            self.refreshed += 1
            return await refresh(token, client)

        async def noted(
            user_id: str, reply_id: str, after: str | None, push: Push | None
        ) -> AsyncGenerator[StreamedEvent, None]:
            self.after.append(after)
            return await follow(user_id, reply_id, after, push)

        patch.setattr(accounts, "refresh", counted)
        patch.setattr(stream, "follow", noted)


@asynccontextmanager
async def serving_accounts(
    folder: Path, model: GatedModel, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Serving]:
    settings = settings_for(folder, auth="password", registration="open", **changes)
    async with serving(settings, model, clock=clock) as server:
        yield server


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_that_ends_in_mid_stream_costs_no_text_and_one_refresh(
    way: str, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends when the client has seen the first piece, and the rest is for who has a new one."""
    model, observed, clock = GatedModel(), Observed(), ShiftedClock()
    reply = model.will_answer(way, PIECES)
    monkeypatch.setattr(authentication, "LOOK_SECONDS", 0.05)
    async with serving_accounts(tmp_path, model, clock) as server:
        observed.watch(server.running.services.accounts, server.running.services.stream, monkeypatch)
        await server.ask(REGISTER, input={"email": EMAIL, "password": PASSWORD})
        lines: list[Any] = []
        async for line in scripts.lines("signed-in.mjs", f"{server.url}/graphql", EMAIL, PASSWORD, way):
            lines.append(line)
            if "seen" in line and observed.refreshed:
                reply.seen(line["seen"])
            elif line.get("seen") == len(PIECES[0]):
                clock.shift = ACCESS_LIFETIME
            if "viewers" in line:
                reply.seen(len(PIECES[0]))
        held = lines[-1]
        signed_in = await server.ask(LOGIN, input={"email": EMAIL, "password": PASSWORD})
        bearer = {"authorization": f"Bearer {signed_in['login']['accessToken']}"}
        stored = (await server.ask(STORED, bearer, id=held["replyId"]))["message"]
    assert stored == {"status": "COMPLETE", "text": reply.text}
    assert {name: held[name] for name in stored} == stored
    assert [line["viewers"] for line in lines if "viewers" in line] == [[EMAIL] * 5]
    assert next(line["closed"] for line in lines if "closed" in line) == (401 if way in STREAMS else 4403)
    assert observed.refreshed == 1
    assert observed.after[0] is None
    assert len(observed.after) == 2
    assert observed.after[1] is not None


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_that_was_ended_elsewhere_ends_the_stream_once_and_for_all(
    way: str, scripts: Scripts, tmp_path: Path
) -> None:
    model = GatedModel()
    model.will_answer(way, PIECES)
    async with serving_accounts(tmp_path, model) as server:
        registered = await server.ask(REGISTER, input={"email": EMAIL, "password": PASSWORD})
        bearer = {"authorization": f"Bearer {registered['register']['accessToken']}"}
        lines: list[Any] = []
        async for line in scripts.lines("signed-in.mjs", f"{server.url}/graphql", EMAIL, PASSWORD, way):
            lines.append(line)
            if "seen" in line and len([line for line in lines if "seen" in line]) == 1:
                await server.ask(LOGOUT, bearer)
    assert [line for line in lines if "ended" in line] == [{"ended": True}]
    assert "refused" in lines[-1], lines


async def test_a_session_lives_by_its_cookie_alone(scripts: Scripts, tmp_path: Path) -> None:
    async with serving_accounts(tmp_path, GatedModel(), refresh_cookie=True) as server:
        await server.ask(REGISTER, input={"email": EMAIL, "password": PASSWORD})
        told = [line async for line in scripts.lines("cookie-session.mjs", f"{server.url}/graphql", EMAIL, PASSWORD)]
    assert [line["renewed"] for line in told if "renewed" in line] == [True, False]
    assert [line["kept"] for line in told if "kept" in line] == [None] * 4
    assert {"ended": True} in told


CREATE_KEY = 'mutation { createApiKey(input: {name: "Nightly"}) { apiKey { id } secret errors { message } } }'
REVOKE_KEY = "mutation ($id: ID!) { revokeApiKey(input: {apiKeyId: $id}) { errors { message } } }"


async def test_gql_watches_a_reply_with_an_api_key_until_that_is_revoked(tmp_path: Path) -> None:
    model = GatedModel()
    reply = model.will_answer("gql", PIECES)
    async with serving_accounts(tmp_path, model) as server:
        url = f"{server.url}/graphql"
        registered = await server.ask(REGISTER, input={"email": EMAIL, "password": PASSWORD})
        bearer = {"authorization": f"Bearer {registered['register']['accessToken']}"}
        key = (await server.ask(CREATE_KEY, bearer))["createApiKey"]
        texts = watch(url, await send(url, "gql", key["secret"]), pause=0, token=key["secret"])
        async for text in texts:
            if text == PIECES[0]:
                break
        await server.ask(REVOKE_KEY, bearer, id=key["apiKey"]["id"])
        with pytest.raises(TransportConnectionFailed):
            await anext(texts)
        reply.seen(len(reply.text))


async def test_gql_is_told_that_a_token_is_missing(tmp_path: Path) -> None:
    async with serving_accounts(tmp_path, GatedModel()) as server:
        url = f"{server.url}/graphql"
        with pytest.raises(TransportQueryError, match="Sign in first"):
            await send(url, "gql")
        with pytest.raises(TransportConnectionFailed):
            [text async for text in watch(url, "msg_absent")]
