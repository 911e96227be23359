"""Where the secret comes from that access tokens are signed with: the setting, or in development a file.

The file stands beside the SQLite file, so that a server can be started without any setting and its users stay signed
in. Knows nothing of tokens.
"""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from tertulia.settings import SettingsError

SHORTEST = 32
FEWEST_CHARACTERS = 10
"""Different ones, among those of the key."""
CURE = "make one with `openssl rand -base64 48` and set TERTULIA_SECRET_KEY to it"
PLACEHOLDERS = re.compile(
    r"change[-_ ]?(?:me|this)|replace[-_ ]?(?:me|this)|default|dummy|example|insecure|password|placeholder|secret|"
    r"tertulia|your[-_ ]?key|[-_]?key|test|12345678(?:90?)?|qwerty|deadbeef|abcdef(?:ghij)?",
    re.IGNORECASE,
)
"""Words of documentation. A key may have them beside enough that is not."""


def signing_key(secret: str | None, database_file: Path | None, *, loopback: bool) -> str:
    """The secret, at least as strong as it looks. `database_file` is that of SQLite, None for other databases.

    None is given only in development: then it is read from `<database file>.key`, or made and kept there. Raises
    SettingsError.
    """
    if secret is not None:
        if fault := _fault(secret):
            raise SettingsError(f"TERTULIA_SECRET_KEY {fault}; {CURE}.")
        return secret
    if database_file is None:
        raise SettingsError(f"TERTULIA_SECRET_KEY is required with PostgreSQL, where servers share it; {CURE}.")
    if not loopback:
        raise SettingsError(f"TERTULIA_SECRET_KEY is required where others can reach the server; {CURE}.")
    return _kept(database_file.with_name(f"{database_file.name}.key"))


def _fault(secret: str) -> str | None:
    """What is wrong with the secret as the end of a sentence, which does not quote it."""
    if len(secret) < SHORTEST:
        return f"must have at least {SHORTEST} characters"
    rest = PLACEHOLDERS.sub("", secret)
    if len(rest) < SHORTEST or len(set(rest)) < FEWEST_CHARACTERS or _is_regular(rest):
        return "can be guessed, as it repeats itself or is made of well-known words"
    return None


def _is_regular(text: str) -> bool:
    """Whether it repeats its beginning, or mostly goes from one character to the next: abcdef, 987654."""
    if any(text[period:] == text[:-period] for period in range(1, len(text) // 2 + 1)):
        return True
    steps = [abs(ord(after) - ord(before)) <= 1 for before, after in pairwise(text)]
    return sum(steps) * 2 > len(steps)


def _kept(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _read(path) if os.path.lexists(path) else _made(path)
    except OSError as error:
        linked = error.errno == errno.ELOOP
        reason = "it is a link, not a file" if linked else (error.strerror or type(error).__name__).lower()
        raise SettingsError(
            f"TERTULIA_SECRET_KEY is not set, and its stand-in {path} cannot be used: {reason}; {CURE}."
        ) from error


def _made(path: Path) -> str:
    """Written elsewhere and linked: of two processes that start at once one makes the file, whole, and both read it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> str:
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), encoding="ascii", errors="replace") as file:
        mode = os.fstat(file.fileno()).st_mode
        secret = file.read(1024).strip()
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise SettingsError(f"Others can read {path}, which takes the place of TERTULIA_SECRET_KEY; `chmod 600` it.")
    if fault := _fault(secret):
        raise SettingsError(f"The key in {path}, which takes the place of TERTULIA_SECRET_KEY, {fault}; delete it.")
    return secret
