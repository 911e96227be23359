"""Accounts over a real server: every mutation and its payload, what the viewer sees, and each kind of server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.graph.people import FORMS, OTHER, PASSWORD, SEND, SERVER, TITLES, VIEWER, Person, registered, server_with
from tests.serving import Serving


@pytest.fixture
async def open_server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with server_with(tmp_path, auth="password", registration="open") as running:
        yield running


# ── signing in and out ──


async def test_who_registers_is_signed_in_and_sees_themselves(open_server: Serving) -> None:
    ada, payload = await registered(open_server)
    assert payload["viewer"].items() >= {"email": "ada@example.org", "displayName": "Ada"}.items()
    viewer = (await ada.ask(VIEWER))["viewer"]
    assert viewer["id"] == payload["viewer"]["id"]
    (session,) = viewer["sessions"]
    assert session["current"]
    assert session["userAgent"].startswith("Python/")
    assert viewer["apiKeys"] == []
    assert [quota["name"] for quota in viewer["quotas"]] == [
        "SENDS_PER_MINUTE",
        "LIVE_REPLIES",
        "TOKENS_PER_DAY",
        "TOKENS_PER_MONTH",
    ]


async def test_the_answer_to_signing_in_may_hold_all_of_the_viewer(open_server: Serving) -> None:
    query = """mutation { register(input: {email: "a@b", password: "correct horse"}) {
      viewer { conversations { totalCount } sessions { current } apiKeys { id } } errors { code } } }"""
    payload = (await open_server.ask(query))["register"]
    assert payload["viewer"] == {"conversations": {"totalCount": 0}, "sessions": [{"current": True}], "apiKeys": []}


async def test_a_login_begins_another_session(open_server: Serving) -> None:
    ada, _ = await registered(open_server)
    payload = await Person(open_server).done("login", email="ADA@example.org", password=PASSWORD)
    sessions = (await ada.ask(VIEWER))["viewer"]["sessions"]
    assert sorted(session["current"] for session in sessions) == [False, True]
    assert (await Person(open_server, payload["accessToken"]).ask(VIEWER))["viewer"]["email"] == "ada@example.org"


async def test_mistakes_in_signing_in_are_data_with_their_place(open_server: Serving) -> None:
    await registered(open_server)
    nobody = Person(open_server)
    assert await nobody.refused("register", email="ada@example.org", password=PASSWORD) == (
        "CONFLICT",
        ["input", "email"],
    )
    assert await nobody.refused("register", email="ada", password=PASSWORD) == ("INVALID_INPUT", ["input", "email"])
    assert await nobody.refused("register", email="b@c", password="short") == ("INVALID_INPUT", ["input", "password"])
    assert await nobody.refused("login", email="ada@example.org", password="wrong") == ("BAD_CREDENTIALS", ["input"])
    assert await nobody.refused("refreshSession", refreshToken="x") == ("SESSION_EXPIRED", ["input", "refreshToken"])
    assert await nobody.refused("refreshSession") == ("SESSION_EXPIRED", ["input", "refreshToken"])


async def test_too_many_tries_say_when_to_come_back(open_server: Serving) -> None:
    nobody = Person(open_server)
    for _ in range(10):
        await nobody.refused("login", email="ada@example.org", password="wrong")
    (error,) = (await nobody.do("login", email="ada@example.org", password="wrong"))["errors"]
    assert (error["__typename"], error["code"]) == ("RateLimitedError", "RATE_LIMITED")
    assert 0 < error["retryAfterMs"] <= 15 * 60 * 1000


async def test_a_refresh_gives_tokens_that_serve(open_server: Serving) -> None:
    ada, first = await registered(open_server)
    second = await Person(open_server).done("refreshSession", refreshToken=first["refreshToken"])
    assert second["refreshToken"] != first["refreshToken"]
    for person in (ada, Person(open_server, second["accessToken"])):
        assert len((await person.ask(VIEWER))["viewer"]["sessions"]) == 1


async def test_who_signed_out_is_nobody(open_server: Serving) -> None:
    ada, payload = await registered(open_server)
    await ada.done("logout")
    assert await ada.code() == "UNAUTHENTICATED"
    assert await Person(open_server).refused("refreshSession", refreshToken=payload["refreshToken"]) == (
        "SESSION_EXPIRED",
        ["input", "refreshToken"],
    )
    assert (await Person(open_server).ask("{ viewer { id } }"))["viewer"] is None


async def test_signing_out_by_the_refresh_token_needs_no_access_token(open_server: Serving) -> None:
    ada, payload = await registered(open_server)
    await Person(open_server).done("logout", refreshToken=payload["refreshToken"], everywhere=True)
    assert await ada.code() == "UNAUTHENTICATED"


async def test_a_session_is_revoked_from_another_device(open_server: Serving) -> None:
    ada, _ = await registered(open_server)
    payload = await ada.done("login", email="ada@example.org", password=PASSWORD)
    other = Person(open_server, payload["accessToken"])
    (lost,) = [s["id"] for s in (await ada.ask(VIEWER))["viewer"]["sessions"] if not s["current"]]
    assert (await ada.done("revokeSession", sessionId=lost))["deletedId"] == lost
    assert await other.code() == "UNAUTHENTICATED"
    assert await ada.refused("revokeSession", sessionId=lost) == ("NOT_FOUND", ["input", "sessionId"])


async def test_a_changed_password_ends_the_old_sessions(open_server: Serving) -> None:
    ada, _ = await registered(open_server)
    assert await ada.refused("changePassword", currentPassword="wrong", newPassword=OTHER) == (
        "BAD_CREDENTIALS",
        ["input", "currentPassword"],
    )
    payload = await ada.done("changePassword", currentPassword=PASSWORD, newPassword=OTHER)
    assert await ada.code() == "UNAUTHENTICATED"
    assert (await Person(open_server, payload["accessToken"]).ask(VIEWER))["viewer"]["email"] == "ada@example.org"
    await Person(open_server).done("login", email="ada@example.org", password=OTHER)


async def test_a_deleted_account_is_gone_and_its_address_free(open_server: Serving) -> None:
    ada, payload = await registered(open_server)
    await ada.ask(SEND, text="Secret")
    assert await ada.refused("deleteAccount", password="wrong") == ("BAD_CREDENTIALS", ["input", "password"])
    assert (await ada.done("deleteAccount", password=PASSWORD))["deletedId"] == payload["viewer"]["id"]
    assert await ada.code() == "UNAUTHENTICATED"
    again, second = await registered(open_server)
    assert second["viewer"]["id"] != payload["viewer"]["id"]
    assert await again.titles() == []


# ── API keys ──


async def test_an_api_key_acts_as_its_user_and_manages_nothing(open_server: Serving) -> None:
    ada, _ = await registered(open_server)
    made = await ada.done("createApiKey", name="robot")
    robot = Person(open_server, made["secret"])
    assert made["secret"].startswith(made["apiKey"]["prefix"])
    await robot.ask(SEND, text="From the robot")
    assert await ada.titles() == ["From the robot"]
    (key,) = (await ada.ask(VIEWER))["viewer"]["apiKeys"]
    assert key["lastUsedAt"] is not None
    for name, input_ in {
        "createApiKey": {"name": "another"},
        "revokeApiKey": {"apiKeyId": key["id"]},
        "revokeSession": {"sessionId": "ses_1"},
        "changePassword": {"currentPassword": PASSWORD, "newPassword": OTHER},
        "deleteAccount": {"password": PASSWORD},
    }.items():
        assert await robot.refused(name, **input_) == ("FORBIDDEN", ["input"])
    assert (await ada.done("revokeApiKey", apiKeyId=key["id"]))["deletedId"] == key["id"]
    assert await robot.code() == "UNAUTHENTICATED"
    assert await ada.refused("revokeApiKey", apiKeyId=key["id"]) == ("NOT_FOUND", ["input", "apiKeyId"])


async def test_a_key_is_made_for_a_time(open_server: Serving) -> None:
    ada, _ = await registered(open_server)
    assert await ada.refused("createApiKey", name="robot", expiresAt="2020-01-01T00:00:00Z") == (
        "INVALID_INPUT",
        ["input", "expiresAt"],
    )
    made = await ada.done("createApiKey", name="robot", expiresAt="2999-01-01T01:00:00+01:00")
    assert made["apiKey"]["expiresAt"].startswith("2999-01-01T00:00:00")


# ── who may do what ──


async def test_two_users_have_each_their_own_conversations(open_server: Serving) -> None:
    ada, _ = await registered(open_server)
    grace, _ = await registered(open_server, "grace@example.org")
    sent = (await ada.ask(SEND, text="Ada's"))["sendMessage"]
    await grace.ask(SEND, text="Grace's")
    assert (await ada.titles(), await grace.titles()) == (["Ada's"], ["Grace's"])
    query = "query ($id: ID!) { node(id: $id) { id } }"
    for found in (sent["conversation"]["id"], sent["message"]["id"], sent["reply"]["id"]):
        assert (await ada.ask(query, id=found))["node"] == {"id": found}
        assert (await grace.ask(query, id=found))["node"] is None


async def test_nobody_may_ask_what_the_server_offers_and_nothing_else(open_server: Serving) -> None:
    nobody = Person(open_server)
    assert (await nobody.ask(SERVER))["server"] == {
        "authentication": ["PASSWORD", "API_KEY"],
        "registrationOpen": True,
    }
    assert await nobody.code(TITLES) == "UNAUTHENTICATED"
    assert await Person(open_server, "forged").code() == "UNAUTHENTICATED"


async def test_where_registration_is_closed_nobody_can_register(tmp_path: Path) -> None:
    async with server_with(tmp_path, auth="password") as server:
        assert not (await Person(server).ask(SERVER))["server"]["registrationOpen"]
        code, _ = await Person(server).refused("register", email="a@b", password=PASSWORD)
        assert code == "REGISTRATION_CLOSED"


async def test_without_accounts_they_are_not_to_be_had_and_everybody_is_the_local_user(tmp_path: Path) -> None:
    async with server_with(tmp_path, registration="open") as server:
        somebody = Person(server, "any")
        assert (await somebody.ask(SERVER))["server"] == {"authentication": ["NONE"], "registrationOpen": False}
        for name, input_ in FORMS.items():
            assert await somebody.refused(name, **input_) == ("FORBIDDEN", ["input"])
        assert await somebody.refused("logout", everywhere=True) == ("FORBIDDEN", ["input"])
        viewer = (await somebody.ask(VIEWER))["viewer"]
        assert (viewer["email"], viewer["sessions"], viewer["apiKeys"]) == (None, [], [])
        await somebody.ask(SEND, text="Hi")
        assert await Person(server).titles() == ["Hi"]


# ── cookies ──


async def test_in_cookie_mode_the_refresh_token_is_in_a_cookie_alone(tmp_path: Path) -> None:
    async with server_with(tmp_path, auth="password", registration="open", refresh_cookie=True) as server:
        query = 'mutation { register(input: {email: "a@b", password: "correct horse"}) { accessToken refreshToken } }'
        async with server.http.post(f"{server.url}/graphql", json={"query": query}) as response:
            payload = (await response.json())["data"]["register"]
            cookie = response.cookies["tertulia_refresh"]
        assert payload["refreshToken"] is None
        assert (cookie["path"], cookie["samesite"]) == ("/graphql", "strict")
        assert cookie["secure"]
        assert cookie["httponly"]
        ada, sent = Person(server, payload["accessToken"]), {"cookie": f"tertulia_refresh={cookie.value}"}
        person = Person(server)
        person.headers = sent
        assert (await person.done("refreshSession"))["accessToken"]
        await person.done("logout")
        assert await ada.code() == "UNAUTHENTICATED"
