"""The `tertulia` command as a process of its own, in the current folder."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


async def started(*arguments: str, **environment: str) -> Process:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment
    command = (sys.executable, "-m", "tertulia.cli", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=variables, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def tertulia(*arguments: str, **environment: str) -> Ended:
    """Run a command to its end, with nothing on its standard input."""
    return await fed(b"", *arguments, **environment)


async def fed(given: bytes, *arguments: str, **environment: str) -> Ended:
    """The same with something on its standard input."""
    process = await started(*arguments, **environment)
    try:
        out, err = await asyncio.wait_for(process.communicate(given), PATIENCE_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
    return Ended(process.returncode or 0, out.decode(), err.decode())
