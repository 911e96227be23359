"""What commands say to the operator's terminal. Knows no command."""

from typing import NoReturn

import typer


def fail(message: str) -> NoReturn:
    typer.secho(f"tertulia: {message}", fg="red", err=True)
    raise typer.Exit(1)


def printable(line: str) -> str:
    """What others wrote must not give orders to the operator's terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
