"""`tertulia user`: accounts, by whoever runs the server. Works beside a running server, on its database."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, TypeVar

import typer

from domain.account_service import AccountPolicy, AccountService
from domain.accounts import LOCAL_USER_ID, AuthMethod, User
from domain.errors import DomainError
from persistence import schema
from persistence.database import Database
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlStorage
from tertulia.errors import SettingsError
from tertulia.passwords import Argon2Hasher
from tertulia.services import SystemClock, TimeOrderedIds, usable_database
from tertulia.settings import load_settings

Result = TypeVar("Result")
USERS_PER_PAGE = 500
app = typer.Typer(no_args_is_help=True, help="Accounts.")
Email = Annotated[str, typer.Argument(help="The user's e-mail address.")]


@app.command()
def create(email: Email, name: Annotated[str | None, typer.Option(help="What the user is shown as.")] = None) -> None:
    """Make a user. The password is asked for, or read from standard input."""
    password = _password()
    user = _run(lambda accounts: accounts.create_user(email, password, name))
    typer.echo(f"{user.id}  {user.email}")


@app.command("list")
def list_users() -> None:
    """List all users: id, address or subject, and since when."""

    async def everybody(accounts: AccountService) -> list[User]:
        found: list[User] = []
        while page := await accounts.users(found[-1].id if found else None, USERS_PER_PAGE):
            found.extend(page)
        return found

    for user in _run(everybody):
        known_as = user.email or user.subject or ("(the local user)" if user.id == LOCAL_USER_ID else "")
        typer.echo(f"{user.id}  {user.created_at:%Y-%m-%d}  {known_as}  {user.display_name or ''}".rstrip())


@app.command("set-password")
def set_password(email: Email) -> None:
    """Set a user's password, end all their sessions, and lift the lock after too many tries."""
    password = _password()
    user = _run(lambda accounts: accounts.set_password(email, password))
    typer.echo(f"{user.email} has a new password; every session has ended.")


@app.command()
def adopt(user: Annotated[str, typer.Argument(help="Who gets them: e-mail address or id.")]) -> None:
    """Give a user all conversations of the local user, who was everybody while there were no accounts."""
    found, given = _run(lambda accounts: accounts.adopt(LOCAL_USER_ID, user))
    typer.echo(f"{found.email or found.id} has {given} more conversations.")


def _password() -> str:
    """Never an argument: those are in the shell's history and in the list of processes."""
    if sys.stdin.isatty():
        answer: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return answer
    return sys.stdin.readline().rstrip("\r\n")


def _run(work: Callable[[AccountService], Awaitable[Result]]) -> Result:
    try:
        with usable_database():
            return asyncio.run(_with_accounts(work))
    except (DomainError, SettingsError) as error:
        typer.secho(f"tertulia: {error}", fg="red", err=True)
        raise typer.Exit(1) from None


async def _with_accounts(work: Callable[[AccountService], Awaitable[Result]]) -> Result:
    async with AsyncExitStack() as stack:
        database = Database(load_settings().database_url)
        stack.push_async_callback(database.close)
        if database.is_sqlite:
            await schema.upgrade(database)
        hasher = Argon2Hasher()
        stack.push_async_callback(hasher.aclose)
        clock = SystemClock()
        accounts = AccountService(
            SqlStorage(database, clock),
            LocalNotifier(),
            hasher,
            None,
            clock,
            TimeOrderedIds(),
            AccountPolicy(AuthMethod.PASSWORD),
        )
        return await work(accounts)
