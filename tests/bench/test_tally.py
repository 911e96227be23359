"""The benchmark's checker notices what it is there for. It measures times; no test asserts one."""

from collections.abc import AsyncIterator
from pathlib import Path

from bench.dialects import OURS, Arrived
from bench.endpoint import CLOCK_MODULO
from bench.servers import SQLITE, endpoint, server
from bench.streams import TENTHS_TO_NANOSECONDS, Load, Tally, measure

ASKED, HEARD, DEPARTED, ARRIVED = 1_000, 1_020, 1_500, 1_530
"""In tenths of a millisecond."""


async def told(*texts: str, arrived: int = ARRIVED) -> AsyncIterator[Arrived]:
    for text in texts:
        yield arrived * TENTHS_TO_NANOSECONDS, text


async def tally_of(*texts: str, tokens: int = 3, arrived: int = ARRIVED, asked: int = ASKED) -> Tally:
    tally = Tally()
    await tally.follow(told(*texts, arrived=arrived), asked * TENTHS_TO_NANOSECONDS, tokens)
    return tally


async def test_a_whole_reply_has_nothing_wrong_however_it_is_cut() -> None:
    assert (await tally_of("0,1500,1020 1,1510 2,1520 ")).wrong == 0
    assert (await tally_of("0,1500,1020 ", "1,1510 2,1520 ")).wrong == 0


async def test_tokens_that_are_lost_doubled_or_swapped_are_noticed() -> None:
    assert (await tally_of("0,1500,1020 2,1520 ")).wrong
    assert (await tally_of("0,1500,1020 1,1510 1,1510 2,1520 ")).wrong
    assert (await tally_of("0,1500,1020 2,1520 1,1510 ")).wrong
    assert (await tally_of("0,1500,1020 1,1510 ")).wrong
    assert (await tally_of()).wrong


async def test_a_delay_is_from_departure_to_arrival_and_the_first_token_counts_without_the_endpoint() -> None:
    tally = await tally_of("0,1500,1020 ", tokens=1)
    assert list(tally.delays) == [3.0]
    assert tally.first == [3.0 + 2.0]


async def test_the_clock_may_begin_anew_in_between() -> None:
    before = CLOCK_MODULO - 5
    tally = await tally_of(f"0,{before},{before - 10} ", tokens=1, arrived=CLOCK_MODULO + 5, asked=before - 12)
    assert list(tally.delays) == [1.0]
    assert [round(first, 6) for first in tally.first] == [1.2]


async def test_a_server_of_ours_delivers_every_token_in_order(tmp_path: Path) -> None:
    async with endpoint() as upstream, server(SQLITE, upstream) as running:
        found = await measure(running, OURS, Load(3, 5, 50))
    assert (found.wrong, found.failed) == (0, 0)
