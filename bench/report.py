"""What was measured as one table, with the machine it was measured on."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.servers import NODE, POSTGRESQL, available
from bench.streams import Streamed
from tests.system.postgres_process import binaries

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = (
    *("server", "CPU us/token", "times ours", "PostgreSQL us/token", "tokens/s", "delay p50 / p99 ms"),
    *("first token p50 / p99 ms", "longest silence ms", "tokens/frame", "peak MiB", "lost or doubled", "failed"),
)
HOW_TO_READ = (
    "The server runs on one core, the endpoint, the clients and PostgreSQL on the others. Everything of ours is "
    "committed before it is shown. CPU is the server's, set-up of all streams included, for each token delivered to a "
    "reader; delay is from a token's departure to its arrival at a WebSocket client; the first token is counted from "
    "asking, less what the endpoint itself took; tokens/s is while all streams are open. Ratios are against Tertulia "
    "on SQLite in the same case. New streams begin at 100 a second. How to read more of it: docs/performance.md."
)


def stream_rows(outcomes: Sequence[tuple[str, Streamed]]) -> list[tuple[str, ...]]:
    ours = outcomes[0][1].cpu
    return [
        (
            name,
            f"{found.cpu:.1f}",
            f"{found.cpu / ours:.2f}",
            "" if found.database_cpu is None else f"{found.database_cpu:.1f}",
            f"{found.delivered_per_second:,.0f}",
            f"{found.delay_p50:.0f} / {found.delay_p99:.0f}",
            f"{found.first_p50:.0f} / {found.first_p99:.0f}",
            f"{found.longest_silence:,.0f}",
            f"{found.tokens_per_frame:.1f}",
            f"{found.peak_mebibytes:.0f}",
            str(found.wrong),
            str(found.failed),
        )
        for name, found in outcomes
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(sections: Sequence[tuple[str, str]]) -> None:
    """Every case with its title."""
    parts = [f"# What a streamed token costs\n\n{machine()}\n\n{HOW_TO_READ}"]
    parts += [f"## {title}\n\n{text}" for title, text in sections]
    RESULTS.write_text("\n\n".join(parts) + "\n")


def machine() -> str:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    siblings = "".join(_lines("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")).strip()
    shared = f"; core 0 shares its hardware with {siblings}" if any(mark in siblings for mark in ",-") else ""
    versions = [f"Python {platform.python_version()}"]
    if available(POSTGRESQL):
        versions.append(f"PostgreSQL {_said(str(binaries() / 'postgres'), '--version').split()[-1]}")
    if NODE is not None:
        versions.append(f"Node {_said(NODE, '--version')}")
    changed = " with changes" if _said("git", "status", "--porcelain", "--", ".", f":!bench/{RESULTS.name}") else ""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {_said('git', 'rev-parse', '--short', 'HEAD')}{changed}; {cpu}, "
        f"{os.cpu_count()} cores{shared}, {memory / 2**20:.0f} GiB; "
        f"{platform.system()} {platform.release()}; {', '.join(versions)}."
    )


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.exists() else []


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
