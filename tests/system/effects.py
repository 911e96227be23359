"""What tools did to the world: marks in a file that any process appends to, and that survive whoever left them."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

FILE = "FAULTS_EFFECTS"
"""The environment variable that names the file."""


class Stage(StrEnum):
    BEGAN = "began"
    EFFECT = "effect"
    """Of `book` and `reserve`: done outside, for good. Of `look`: a run."""
    WROTE = "wrote"
    """Of `note`: in the unit of work, which is not committed yet."""


@dataclass(frozen=True, slots=True)
class Mark:
    stage: Stage
    call: str
    tool: str
    text: str


def leave(mark: Mark) -> None:
    """On the disk when this returns; lines of several processes never mix."""
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(asdict(mark)).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


@dataclass
class Marks:
    """Reads the file as it grows."""

    path: Path
    all: list[Mark] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    """How far each call came."""
    _read: int = 0

    def look(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                found = json.loads(line)
                mark = Mark(**found | {"stage": Stage(found["stage"])})
                self.all.append(mark)
                self.stages[mark.call] = mark.stage


@dataclass
class Effects:
    """What took effect, by the ids of calls and by what was asked for."""

    calls: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    looks: Counter[str] = field(default_factory=Counter)
    """Runs of `look`, which may be repeated."""

    def add(self, call: str, text: str) -> None:
        self.calls[call] += 1
        self.texts[text] += 1

    @classmethod
    def of(cls, marks: Iterable[Mark], notes: Iterable[tuple[str, str]]) -> "Effects":
        """Of the file, and of the notes in the database: each the id of its call and its text."""
        found = cls()
        for mark in marks:
            if mark.stage is Stage.EFFECT:
                if mark.tool == "look":
                    found.looks[mark.call] += 1
                else:
                    found.add(mark.call, mark.text)
        for call, text in notes:
            found.add(call, text)
        return found
