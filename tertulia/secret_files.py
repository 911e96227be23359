"""Secrets in files: `NAME_FILE` names the file that holds what the variable NAME would, as Docker's secrets do.

Neither what a file holds nor how it is called is ever said: a key may have been put where the name belongs. Nothing
here knows which variables there are.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

from tertulia.errors import SettingsError

SUFFIX = "_FILE"


def value_of(name: str) -> str | None:
    """What a variable holds, or the file that is named for it. Raises SettingsError."""
    return from_file(name) or given(name)


def from_file(name: str) -> str | None:
    """What the file holds that NAME_FILE names, without the line's end; None if no file is named.

    Raises SettingsError when it holds nothing readable, or when NAME is given as well.
    """
    path = given(name + SUFFIX)
    if path is None:
        return None
    if given(name) is not None:
        raise SettingsError(f"{name} and {name}{SUFFIX} are both set; take one of them away.")
    try:
        text = Path(path).read_text("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"{name}{SUFFIX} names a file that is not UTF-8 text.") from None
    except OSError as error:
        raise SettingsError(f"{name}{SUFFIX} names a file that cannot be read: {error.strerror}.") from None
    except ValueError:  # a zero byte
        raise SettingsError(f"{name}{SUFFIX} is no name of a file.") from None
    if not text.strip():
        raise SettingsError(f"{name}{SUFFIX} names a file that is empty.")
    return text


def given(name: str) -> str | None:
    """What the environment says, else `.env`; None where that is nothing. Names in capitals or not."""
    for source in (os.environ, dotenv_values(".env")):
        for key, value in source.items():
            if key.upper() == name and value:
                return value
    return None
