"""Words that occur nowhere else, put where a server keeps its secrets and people their words; and the search for them.

A canary has only letters and digits, so that URLs and JSON write it as it is. Eight of its characters in a row are
a find: what is shown in part is shown. Knows nothing of servers.
"""

import base64
import re
import secrets
import string
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Self

LENGTH, WINDOW = 24, 8


def word() -> str:
    """Fit for a password or a key."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LENGTH))


def forms(canary: str) -> Iterator[str]:
    """What of a canary must not be found: parts of it in plain, and all of it in base64 and in hexadecimal digits."""
    yield from (canary[start : start + WINDOW] for start in range(0, len(canary) - WINDOW + 1, 4))
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + canary.encode()).decode().rstrip("=")
        yield encoded[4 if before else 0 : -2]
    yield canary.encode().hex()


@dataclass(frozen=True, slots=True)
class Heard:
    """A text that came out of a server, and what may be in it, by the names of canaries."""

    source: str
    text: str
    may_hold: Set[str] = frozenset()
    """Still to be filled when the text was heard: a token becomes a canary when it has been given."""


@dataclass
class Canaries:
    """The canaries of one tour, by name."""

    of: dict[str, str]
    heard: list[Heard] = field(default_factory=list)

    @classmethod
    def made(cls, names: Iterable[str]) -> Self:
        return cls({name: word() for name in names})

    def __getitem__(self, name: str) -> str:
        return self.of[name]

    def hears(self, source: str, text: str, may_hold: Set[str] = frozenset()) -> None:
        self.heard.append(Heard(source, text, may_hold))

    def found(self) -> list[str]:
        """Each find in a sentence."""
        sought = self.pattern(self.of)
        finds_of = ((each, name, at) for each in self.heard for name, at in finds(each.text, sought))
        return [f"the {name} is in {each.source}: {at}" for each, name, at in finds_of if name not in each.may_hold]

    def pattern(self, names: Iterable[str]) -> "Pattern":
        form_names = {form: name for name in names for form in forms(self.of[name])}
        return re.compile("|".join(map(re.escape, form_names))), form_names


Pattern = tuple[re.Pattern[str], dict[str, str]]


def finds(text: str, sought: Pattern) -> Iterator[tuple[str, str]]:
    """Each canary of a text once, with what stands around it."""
    expression, names = sought
    seen: set[str] = set()
    for found in expression.finditer(text):
        name = names[found[0]]
        if name not in seen:
            seen.add(name)
            yield name, repr(text[max(0, found.start() - 90) : found.end() + 30])
