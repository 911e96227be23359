"""Running the Node scripts beside this file; they print one JSON object per line."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LONGEST_LINE = 4_194_304


@dataclass(frozen=True)
class Scripts:
    node: str

    @asynccontextmanager
    async def running(self, script: str, *arguments: str) -> AsyncIterator[AsyncIterator[Any]]:
        """The lines of a script that goes on until the context is left."""
        async with aclosing(self.lines(script, *arguments)) as lines:
            yield lines

    async def lines(self, script: str, *arguments: str) -> AsyncGenerator[Any, None]:
        """What a script prints, as it prints it. Fails with what it complained of when it fails."""
        process = await asyncio.create_subprocess_exec(
            self.node,
            str(HERE / script),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())
        try:
            async for line in process.stdout:
                yield json.loads(line)
            assert await process.wait() == 0, (await complaints).decode()
        finally:
            complaints.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
