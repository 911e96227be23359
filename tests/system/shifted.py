"""`tertulia` on a host whose clock is wrong: KIT_CLOCK_SHIFT seconds off, for every wall clock that it reads."""

import os
import time
from datetime import UTC, datetime

from tertulia import cli, services
from tertulia.services import SystemClock

SHIFT = float(os.environ.pop("KIT_CLOCK_SHIFT"))
true_time, true_time_ns = time.time, time.time_ns


def wrong_time() -> float:
    return true_time() + SHIFT


def wrong_time_ns() -> int:
    return true_time_ns() + int(SHIFT * 1e9)


class WrongClock(SystemClock):
    def now(self) -> datetime:
        return datetime.fromtimestamp(wrong_time(), UTC)


def main() -> None:
    time.time, time.time_ns = wrong_time, wrong_time_ns
    services.SystemClock = WrongClock  # type: ignore[misc]
    cli.app()


if __name__ == "__main__":
    main()
