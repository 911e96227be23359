"""Why a server does not start as it was told to, in one sentence for its operator. Knows no setting."""

import re

from pydantic import ValidationError


class SettingsError(Exception):
    """A wrong setting; the message is one sentence that names the variable and the cure."""


def first_mistake(error: ValidationError) -> tuple[list[str], str]:
    """Where the first mistake is, and what is wrong there, without what was given: that may be a secret."""
    first = error.errors()[0]
    reason = {"missing": "is missing", "extra_forbidden": "is no setting"}.get(first["type"], first["msg"])
    reason = re.sub(r"^(Input|Tuple|Dictionary|String|Value) should", "should", reason.removeprefix("Value error, "))
    return [str(step) for step in first["loc"]], reason.rstrip(".")
