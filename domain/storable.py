"""What every database stores and every reader of JSON takes: texts, integers and whole values. Pure."""

from collections.abc import Mapping
from math import isfinite

from domain.errors import InvalidInput

INTEGERS = range(-(2**63), 2**64)
"""What readers and writers of JSON take for an integer: beyond it, ours cannot write a value out again."""
MAX_DEPTH = 32
"""Levels to which a value may be nested."""


def check_text(text: str, *path: str) -> None:
    """Raises InvalidInput for what no database stores."""
    if "\0" in text:
        raise InvalidInput("The text contains a NUL character, which cannot be stored.", *path)
    check_characters(text, *path)


def check_characters(text: str, *path: str) -> None:
    """Raises InvalidInput for what has no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("The text contains half of a surrogate pair, which is not a character.", *path) from error


def storable_text(text: str) -> str:
    """The text with replacements for what no database stores."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def storable(value: object, depth: int = MAX_DEPTH) -> object:
    """A JSON value with such replacements. Raises ValueError or TypeError for what is no JSON, or too deep."""
    if depth == 0:
        raise ValueError("nested too deeply")
    match value:
        case str():
            return storable_text(value)
        case bool() | None:
            return value
        case int():
            exact = int(value)  # a range is searched through, number by number, for what is more than an int
            return exact if exact in INTEGERS else str(exact)
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {storable_text(str(name)): storable(inner, depth - 1) for name, inner in value.items()}
        case list() | tuple():
            return [storable(inner, depth - 1) for inner in value]
        case _:
            raise TypeError(f"{type(value).__name__} is no JSON")
