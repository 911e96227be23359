"""Processes under test: started on cores of their own, watched through /proc, stopped by their ids."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES, LOAD_CORES = CORES[:1], CORES[1:] or CORES


@contextmanager
def pinned(cores: list[int]) -> Iterator[None]:
    """What is started meanwhile, threads and processes, runs on these cores only, for ever."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Watched:
    """A running process with all its descendants."""

    pid: int
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """User and system time so far, of those that have ended and were waited for too."""
        return sum(_ticks(pid) for pid in self._family()) / TICKS

    def peak_mebibytes(self) -> float:
        """The most memory that was ever resident (VmHWM), summed over the processes."""
        return sum(_peak_kibibytes(pid) for pid in self._family()) / 1024

    def resident_kibibytes(self) -> float:
        return sum(_status(pid, "VmRSS") for pid in self._family())

    def _family(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found


def _ticks(pid: int) -> int:
    """Fields 14 to 17 of proc(5)'s stat, which follow the name in brackets."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


def _peak_kibibytes(pid: int) -> int:
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


@asynccontextmanager
async def process(
    command: list[str], port: int, cores: list[int], folder: Path, environment: dict[str, str]
) -> AsyncIterator[Watched]:
    """A program that listens on `port`, from when it does so until the context is left. What it says is in `log`."""
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    with (folder / "log").open("ab") as log, pinned(cores):
        running = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=own | environment, stdout=log, stderr=log
        )
    try:
        await _listening(running, port, folder)
        yield Watched(running.pid, port)
    finally:
        if running.returncode is None:
            running.send_signal(signal.SIGKILL)
        await running.wait()


async def _listening(running: asyncio.subprocess.Process, port: int, folder: Path) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError as error:
                if running.returncode is not None:
                    raise RuntimeError(f"did not start: {(folder / 'log').read_text()[-2_000:]}") from error
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
