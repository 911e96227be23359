"""`tertulia user` as people run it, and the password is nobody's to see.

What a running server must learn of is done by a process of its own; all else in the test's, which is quicker.
"""

import asyncio
import os
import pty
import re
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from domain.accounts import LOCAL_USER_ID, Client
from domain.errors import BadCredentials, RateLimited
from domain.inputs import SendMessage
from persistence import schema
from persistence.database import Database
from tertulia.cli import app
from tertulia.services import Running, open_services
from tests.doubles import ScriptedModel, WordCounter
from tests.patience import PATIENCE_SECONDS
from tests.postgres import drop_database, new_database
from tests.serving import settings_for
from tests.tertulia.commands import ROOT, Ended, fed

EMAIL, PASSWORD, OTHER = "ada@example.org", "s3cret horse", "s3cret staple"
HERE = Client("192.0.2.1")
PROMPT = re.compile("Password: |confirmation: ")
SECRET = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


async def user(url: str, *arguments: str, given: str | bytes = "") -> Ended:
    """`tertulia user`, which never shows a password."""
    invoke, environment = CliRunner().invoke, {"DATABASE_URL": url}
    found = await asyncio.to_thread(invoke, app, ["user", *arguments], input=given, env=environment)
    return discreet(Ended(found.exit_code, found.stdout, found.stderr))


async def other_process(url: str, *arguments: str, given: str = "") -> str:
    """The same in a process of its own; what it said when all went well."""
    return successful(discreet(await fed(given.encode(), "user", *arguments, DATABASE_URL=url)))


def discreet(ended: Ended) -> Ended:
    assert "s3cret" not in ended.out + ended.err
    return ended


def successful(ended: Ended) -> str:
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


async def done(url: str, *arguments: str, given: str = "") -> str:
    return successful(await user(url, *arguments, given=given))


async def refused(url: str, *arguments: str, given: str | bytes = "") -> str:
    """The one sentence of a command that could not be done."""
    ended = await user(url, *arguments, given=given)
    assert (ended.code, ended.out) == (1, ""), ended
    assert ended.err.startswith("tertulia: ")
    assert ended.err.count("\n") == 1
    assert ended.err.rstrip().endswith(".")
    return ended.err


@asynccontextmanager
async def serving_at(folder: Path, url: str) -> AsyncIterator[Running]:
    settings = settings_for(folder, database_url=url, auth="password", secret_key=SECRET)
    async with open_services(settings, model=ScriptedModel(), tokens=WordCounter()) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """A server with accounts, on each kind of database."""
    if request.param == "sqlite":
        async with serving_at(tmp_path, f"sqlite:///{tmp_path}/test.db") as up:
            yield up
        return
    server = request.getfixturevalue("postgres")
    url = await new_database(server)
    database = Database(url)
    await schema.upgrade(database)
    await database.close()
    try:
        async with serving_at(tmp_path, url) as up:
            yield up
    finally:
        await drop_database(server, url)


@pytest.fixture
def url(running: Running) -> str:
    return running.settings.database_url


@pytest.fixture
def absent(tmp_path: Path) -> str:
    """A database that nobody has made yet."""
    return f"sqlite:///{tmp_path}/data/absent.db"


# ── beside a running server ──


async def test_a_user_who_is_made_beside_a_server_signs_in_there(running: Running, url: str) -> None:
    said = await other_process(url, "create", " Ada@Example.org", "--name", "Ada", given=f"{PASSWORD}\n")
    signed_in = await running.services.accounts.login(EMAIL, PASSWORD, HERE)
    assert said == f"{signed_in.user.id}  {EMAIL}\n"
    assert signed_in.user.display_name == "Ada"
    assert "There is a user with this e-mail address" in await refused(url, "create", EMAIL, given=OTHER)
    listed = (await done(url, "list")).splitlines()
    assert listed[0].endswith("(the local user)")
    assert listed[1:] == [f"{signed_in.user.id}  {signed_in.user.created_at:%Y-%m-%d}  {EMAIL}  Ada"]


async def test_a_password_that_is_set_lifts_the_lock_and_ends_the_sessions_of_a_running_server(
    running: Running, url: str
) -> None:
    await done(url, "create", EMAIL, given=PASSWORD)
    accounts = running.services.accounts
    signed_in = await accounts.login(EMAIL, PASSWORD, HERE)
    for _ in range(10):
        with pytest.raises(BadCredentials):
            await accounts.login(EMAIL, "wrong", HERE)
    with pytest.raises(RateLimited):
        await accounts.login(EMAIL, PASSWORD, HERE)
    said = await other_process(url, "set-password", EMAIL, given=f"{OTHER}\r\n")
    assert said == f"{EMAIL} has a new password; every session has ended.\n"
    assert await accounts.sessions(signed_in.user.id) == []
    await accounts.login(EMAIL, OTHER, HERE)


async def test_conversations_of_the_local_user_are_adopted(running: Running, url: str) -> None:
    services = running.services
    sent = await services.replies.send_message(LOCAL_USER_ID, SendMessage("Hi"))
    await services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
    await done(url, "create", EMAIL, given=PASSWORD)
    ada = (await services.accounts.login(EMAIL, PASSWORD, HERE)).user
    assert await other_process(url, "adopt", EMAIL) == f"{EMAIL} has 1 more conversations.\n"
    assert (await services.conversations.message(ada.id, sent.reply_id)).text == "Hello there."
    assert await done(url, "adopt", ada.id) == f"{EMAIL} has 0 more conversations.\n"


# ── without a server ──


async def test_a_user_may_be_made_before_the_first_start(absent: str, tmp_path: Path) -> None:
    await done(absent, "create", EMAIL, given=PASSWORD)
    assert EMAIL in await done(absent, "list")
    file = tmp_path / "data" / "absent.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_migration_that_is_missing_is_a_sentence(postgres: str) -> None:
    url = await new_database(postgres)
    try:
        assert "tertulia migrate" in await refused(url, "list")
    finally:
        await drop_database(postgres, url)


async def test_a_database_that_is_away_is_a_sentence() -> None:
    sentence = await refused("postgresql://me:s3cret@127.0.0.1:1/chat", "list")
    assert "DATABASE_URL" in sentence


@pytest.mark.parametrize(
    ("arguments", "given", "reason"),
    [
        (("create", "ada"), PASSWORD, "not an e-mail address"),
        (("create", EMAIL), "", "8 to 256 characters"),
        (("create", EMAIL), "s3cret\n", "8 to 256 characters"),
        (("create", EMAIL), EMAIL, "must not be the e-mail address"),
        (("create", EMAIL, "--name", " "), PASSWORD, "A name has"),
        (("create", EMAIL), b"s3cret \xff\xfe horse\n", "not UTF-8"),
        (("set-password", "nobody@example.org"), PASSWORD, "There is no user 'nobody@example.org'"),
        (("set-password", EMAIL), "s3cret", "8 to 256 characters"),
        (("adopt", "nobody@example.org"), "", "There is no user 'nobody@example.org'"),
        (("adopt", "user_1"), "", "There is no user 'user_1'"),
        (("adopt", "@"), "", "not an e-mail address"),
    ],
)
async def test_what_cannot_be_done_is_one_sentence(
    absent: str, arguments: tuple[str, ...], given: str | bytes, reason: str
) -> None:
    assert reason in await refused(absent, *arguments, given=given)


async def test_a_password_is_no_argument(absent: str) -> None:
    ended = await user(absent, "create", EMAIL, "a password")
    assert ended.code == 2
    assert "Traceback" not in ended.err


async def test_what_people_call_themselves_gives_no_orders_to_the_terminal(absent: str) -> None:
    await done(absent, "create", EMAIL, "--name", "Ada\x1b[2J\nroot", given=PASSWORD)
    listed = await done(absent, "list")
    assert "Ada\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}root" in listed
    assert len(listed.splitlines()) == 2


async def test_the_database_holds_no_password(absent: str, tmp_path: Path) -> None:
    await done(absent, "create", EMAIL, given=PASSWORD)

    def stored() -> Any:
        with sqlite3.connect(tmp_path / "data" / "absent.db") as database:
            return database.execute("SELECT password_hash FROM users WHERE email = ?", (EMAIL,)).fetchone()[0]

    assert (await asyncio.to_thread(stored)).startswith("$argon2id$")


# ── at a terminal ──


async def at_a_terminal(url: str, *typed: str) -> tuple[int, str]:
    """`tertulia user create` with a terminal of its own, in which the lines are typed one by one when it asks."""
    ours, theirs = pty.openpty()
    variables = os.environ | {"PYTHONPATH": str(ROOT), "DATABASE_URL": url}
    command = (sys.executable, "-m", "tertulia.cli", "user", "create", EMAIL)
    process = await asyncio.create_subprocess_exec(
        *command, env=variables, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        shown = await asyncio.wait_for(asyncio.to_thread(conversation, ours, list(typed)), PATIENCE_SECONDS)
        return await process.wait(), shown
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)


def conversation(terminal: int, typed: list[str]) -> str:
    """Answer each prompt, until the other side hangs up."""
    shown, asked = "", 0
    with suppress(OSError):  # how Linux says that the other side has gone
        while data := os.read(terminal, 1024):
            shown += data.decode()
            if typed and len(PROMPT.findall(shown)) > asked:
                asked += 1
                os.write(terminal, typed.pop(0).encode() + b"\n")
    return shown


async def test_at_a_terminal_the_password_is_asked_for_twice_and_not_shown(absent: str) -> None:
    code, shown = await at_a_terminal(absent, PASSWORD, PASSWORD)
    assert code == 0
    assert "s3cret" not in shown
    assert EMAIL in shown
