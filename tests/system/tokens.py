"""The language that the kit's messages and answers are written in: pure functions, told apart by what they read.

A message says how it is to be answered, an answer says of each of its tokens which call sent it, which one it is and
when it left. So a text alone shows whether anything is missing, doubled or of two minds.
"""

import re
from dataclasses import dataclass
from typing import Self

TOKEN = re.compile(r"(\d+)\.(\d+)@(\d+\.\d{4})\.* ")
SCRIPT = re.compile(r"(\S+) tokens=(\d+) rate=([\d.]+) first=([\d.]+) pad=(\d+)")


@dataclass(frozen=True, slots=True)
class Script:
    """How a message is to be answered: so many tokens, so many a second, the first after so many seconds."""

    key: str
    tokens: int
    rate: float
    first: float = 0.0
    pad: int = 0

    @classmethod
    def read(cls, text: str) -> Self | None:
        found = SCRIPT.fullmatch(text)
        if found is None:
            return None
        return cls(found[1], int(found[2]), float(found[3]), float(found[4]), int(found[5]))

    @property
    def text(self) -> str:
        return f"{self.key} tokens={self.tokens} rate={self.rate:g} first={self.first:.3f} pad={self.pad}"

    @property
    def seconds(self) -> float:
        """How long the answer takes when nothing goes wrong."""
        return self.first + self.tokens / self.rate


def numbers(text: str) -> list[int]:
    """The tokens' own numbers, in the order of the text."""
    return [int(found[2]) for found in TOKEN.finditer(text)]


def calls(text: str) -> list[int]:
    """The calls that the text is from, each once, in the order of the text."""
    return list(dict.fromkeys(int(found[1]) for found in TOKEN.finditer(text)))


def departures(text: str) -> list[float]:
    return [float(found[3]) for found in TOKEN.finditer(text)]


def is_clean(text: str) -> bool:
    """Nothing but whole tokens, numbered from 0 without gap or repetition: the beginning of an answer, or all of it."""
    return TOKEN.sub("", text) == "" and numbers(text) == list(range(len(numbers(text))))


def is_whole(text: str, script: Script) -> bool:
    return is_clean(text) and len(numbers(text)) == script.tokens
