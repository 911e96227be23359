"""`tertulia user`: accounts, by whoever runs the server. Works beside a running server, on its database."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, TypeVar

import typer

from domain.accounts import LOCAL_USER_ID, User
from domain.errors import DomainError
from domain.user_administration import UserAdministration
from persistence import schema
from persistence.database import Database
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlStorage
from tertulia.databases import check_revision, usable_database
from tertulia.errors import SettingsError
from tertulia.passwords import Argon2Hasher
from tertulia.services import SystemClock, TimeOrderedIds
from tertulia.settings import load_settings
from tertulia.terminal import fail, printable

Result = TypeVar("Result")
USERS_PER_PAGE = 500
app = typer.Typer(no_args_is_help=True, help="Accounts.")
Email = Annotated[str, typer.Argument(help="The user's e-mail address.")]


@app.command()
def create(email: Email, name: Annotated[str | None, typer.Option(help="What the user is shown as.")] = None) -> None:
    """Make a user. The password is asked for, or read from standard input."""
    password = _password()
    user = _run(lambda users: users.create_user(email, password, name))
    typer.echo(f"{user.id}  {user.email}")


@app.command("list")
def list_users() -> None:
    """List all users: id, since when, address or subject, and name."""

    async def everybody(users: UserAdministration) -> list[User]:
        found: list[User] = []
        while page := await users.page(found[-1].id if found else None, USERS_PER_PAGE):
            found.extend(page)
        return found

    for user in _run(everybody):
        known_as = user.email or user.subject or ("(the local user)" if user.id == LOCAL_USER_ID else "")
        typer.echo(printable(f"{user.id}  {user.created_at:%Y-%m-%d}  {known_as}  {user.display_name or ''}".rstrip()))


@app.command("set-password")
def set_password(email: Email) -> None:
    """Set a user's password, end all their sessions, and lift the lock after too many tries."""
    password = _password()
    user = _run(lambda users: users.set_password(email, password))
    typer.echo(f"{user.email} has a new password; every session has ended.")


@app.command()
def adopt(user: Annotated[str, typer.Argument(help="Who gets them: e-mail address or id.")]) -> None:
    """Give a user all conversations of the local user, who was everybody while there were no accounts."""
    found, given = _run(lambda users: users.adopt(LOCAL_USER_ID, user))
    typer.echo(f"{found.email or found.id} has {given} more conversations.")


def _password() -> str:
    """Never an argument: those are in the shell's history and in the list of processes."""
    if sys.stdin.isatty():
        answer: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return answer
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        fail("The password on standard input is not UTF-8.")


def _run(work: Callable[[UserAdministration], Awaitable[Result]]) -> Result:
    try:
        with usable_database():
            return asyncio.run(_administer(work))
    except (DomainError, SettingsError) as error:
        fail(str(error))


async def _administer(work: Callable[[UserAdministration], Awaitable[Result]]) -> Result:
    async with AsyncExitStack() as stack:
        database = Database(load_settings().database_url)
        stack.push_async_callback(database.close)
        if database.is_sqlite:
            await schema.upgrade(database)
        else:
            await check_revision(database)
        hasher = Argon2Hasher()
        stack.push_async_callback(hasher.aclose)
        clock = SystemClock()
        storage = SqlStorage(database, clock)
        return await work(UserAdministration(storage, LocalNotifier(), hasher, clock, TimeOrderedIds()))
