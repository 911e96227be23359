"""A reader who pastes what our pages say: one shell for a whole page, against a real server."""

import asyncio
import os
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from domain.conversations import Role
from domain.models import ChatChunk, ChatRequest, Model
from providers.local import LOCAL_MODEL
from tests.clients.conftest import find_node, missing
from tests.docs.pages import ROOT, Block
from tests.doubles import ScriptedModel, Step, answer, heard
from tests.patience import PATIENCE_SECONDS
from tests.serving import Serving

END = "that was the whole answer"
ADDRESS = "127.0.0.1:8000"
CLIENTS = ROOT / "tests" / "clients"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


class Informed:
    """A ChatModel that knows what our pages ask.

    A story begins when `somebody_reads` and goes on when `connection_broke`: so there is always something before the
    connection breaks, and always something after it.
    """

    def __init__(self) -> None:
        self.somebody_reads = asyncio.Event()
        self.connection_broke = asyncio.Event()

    def models(self) -> Sequence[Model]:
        return (replace(LOCAL_MODEL, is_default=True),)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        asked = next(message for message in reversed(heard(request.messages)) if message.role is Role.USER)
        playing = ScriptedModel(self._script("".join(asked.texts)), models=self.models())
        async for chunk in playing.stream(request):
            yield chunk

    def _script(self, asked: str) -> list[Step]:
        if "France" in asked:
            return answer("The capital of France", " is Paris.")
        if "Italy" in asked:
            return answer("Rome.")
        if "story" in asked:
            start, *words, end = answer("Once upon a time", ", a stream broke off,", " and nothing was lost.")
            return [start, self.somebody_reads, words[0], self.connection_broke, *words[1:], end]
        if "Count" in asked:
            return [*answer("1 2 3 ")[:-1], asyncio.Event()]
        return answer("A circle of people who meet to talk.")


class Shell:
    def __init__(self, process: Process, url: str, informed: Informed) -> None:
        self._process = process
        self._address = url.removeprefix("http://")
        self._informed = informed

    async def paste(self, command: Block) -> str:
        """What the lines of a page print. `--max-time` is how our pages play a connection that breaks."""
        breaks = "--max-time" in command.text
        if breaks:
            self._informed.somebody_reads.set()
        printed = await self._run(command.text)
        if breaks:
            self._informed.connection_broke.set()
        return printed

    async def _run(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pasted = text.replace(ADDRESS, self._address)
        self._process.stdin.write(f"{pasted}\necho {END}\n".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            printed = await self._process.stdout.readuntil(f"{END}\n".encode())
        return printed.decode().removesuffix(f"{END}\n")


@asynccontextmanager
async def shell(url: str, informed: Informed, folder: Path) -> AsyncIterator[Shell]:
    """`tertulia` is that of this checkout, with the database of the server; what is installed is found."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": PATH, "DATABASE_URL": f"sqlite:///{folder}/test.db"}
    process = await asyncio.create_subprocess_exec(
        "bash", cwd=folder, env=environment, stdin=PIPE, stdout=PIPE, stderr=STDOUT, limit=2**20, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(f'tertulia() {{ {shlex.quote(sys.executable)} -m tertulia.cli "$@"; }}\n'.encode())
    try:
        yield Shell(process, url, informed)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with what the page left running
        await process.communicate()


async def run_program(program: Block, server: Serving) -> str:
    """What a program of our pages prints. It stands beside the files that our pages show."""
    text = program.text.replace(ADDRESS, server.url.removeprefix("http://"))
    command = [sys.executable, "-c"] if program.language == "python" else [node(), "--input-type=module", "--eval"]
    process = await asyncio.create_subprocess_exec(*command, text, cwd=CLIENTS, stdout=PIPE, stderr=STDOUT)
    async with asyncio.timeout(PATIENCE_SECONDS):
        printed, _ = await process.communicate()
    return printed.decode()


def node() -> str:
    found = find_node()
    if found is None or not (CLIENTS / "node_modules" / "graphql").exists():
        missing("the JavaScript clients are not installed; `make test` installs them")
    return found
