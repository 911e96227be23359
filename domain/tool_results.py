"""What tools answer, made fit to be stored, shown and read by a model. Pure."""

import json

from domain.storable import storable, storable_text

RESULT_CHARACTERS = 20_000
"""Of a result as JSON: about 5,000 tokens."""
MESSAGE_CHARACTERS = 2_000
_write = json.JSONEncoder(ensure_ascii=False).iterencode


def presentable(value: object) -> object:
    """The same JSON value if it is small enough; else the beginning of its text, with a note.

    What no database stores is replaced. Raises ValueError or TypeError for what is no JSON.
    """
    if isinstance(value, str):
        return cut(value, RESULT_CHARACTERS)
    pieces: list[str] = []
    length = 0
    try:
        for piece in _write(value):
            pieces.append(piece)
            length += len(piece)
            if length > RESULT_CHARACTERS:
                return cut("".join(pieces), RESULT_CHARACTERS)
        return storable(value)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def cut(text: str, most: int) -> str:
    text, whole = storable_text(text[: most + 1]), len(text) <= most
    return text if whole else f"{text[:most]}\n[Cut: only the first {most} characters are here.]"


def arguments_in(text: str) -> dict[str, object] | None:
    """The arguments as a model wrote them; none at all are an empty object. None when they are no JSON object."""
    try:
        arguments = storable(json.loads(text or "{}"))
    except (ValueError, TypeError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
