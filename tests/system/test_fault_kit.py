"""The kit itself: what must never happen is noticed when it happens, and faults are faults."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.system.faulty_proxy import FaultyProxy, faulty_proxy
from tests.system.load import Talk, completes, reply_faults
from tests.system.report import Outcome, percentile, row
from tests.system.tokens import Script, calls, departures, is_clean, is_whole, numbers
from tests.system.upstream import Upstream, upstream
from tests.system.watching import Watcher

SCRIPT = Script("key", 4, 20)
WHOLE = "7.0@10.0000 7.1@10.1000 9.2@12.0000... 9.3@12.1000 "


# ── texts ──


def test_a_script_reads_as_it_was_written() -> None:
    script = Script("a-1", 300, 12.5, first=0.25, pad=3)
    assert Script.read(script.text) == script
    assert Script.read("Hello") is None


def test_a_text_tells_its_tokens_its_calls_and_their_departures() -> None:
    assert numbers(WHOLE) == [0, 1, 2, 3]
    assert calls(WHOLE) == [7, 9]
    assert departures(WHOLE) == [10.0, 10.1, 12.0, 12.1]


def test_a_whole_text_is_whole_and_its_beginning_is_only_clean() -> None:
    assert is_whole(WHOLE, SCRIPT)
    beginning = WHOLE[:24]
    assert is_clean(beginning)
    assert not is_whole(beginning, SCRIPT)


@pytest.mark.parametrize(
    "text",
    [
        WHOLE.replace("7.1@10.1000 ", ""),
        WHOLE.replace("7.1@10.1000 ", "7.1@10.1000 7.1@10.1000 "),
        WHOLE.replace("7.1@10.1000 ", "7.1@10.1000 9.1@11.0000 "),
        WHOLE.replace("7.1@10.1000 ", "7.1@10.1"),
        WHOLE + "9.5@12.2000 ",
        "x" + WHOLE,
    ],
    ids=["lost", "doubled", "begun again", "half a token", "a gap at the end", "something else"],
)
def test_a_text_that_is_not_clean_is_noticed(text: str) -> None:
    assert not is_clean(text)
    assert not is_whole(text, SCRIPT)


# ── readers ──


def event(kind: str, cursor: str, text: str = "") -> dict[str, Any]:
    reply = {"text": text, "status": "COMPLETE"}
    return {"__typename": kind, "cursor": cursor, "text": text, "reply": reply}


def reader(*events: dict[str, Any]) -> Watcher:
    watcher = Watcher("reply")
    for one in events:
        watcher.apply(one)
    return watcher


STORED = {"status": "COMPLETE", "text": WHOLE, "generation": {"attempts": 1, "error": None}}
GOOD = (event("ReplySnapshot", "1"), event("TextDelta", "2", WHOLE), event("ReplyFinished", "3", WHOLE))


def faults_of(*events: dict[str, Any], stored: dict[str, Any] | None = STORED) -> str:
    talk = Talk(SCRIPT, "message", "reply", watchers=[reader(*events)])
    return "; ".join(reply_faults(talk, stored, completes))


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert faults_of(*GOOD) == ""


def test_a_snapshot_of_a_reply_that_has_ended_shares_its_number_with_the_end() -> None:
    assert faults_of(event("ReplySnapshot", "3", WHOLE), event("ReplyFinished", "3", WHOLE)) == ""


def test_a_number_that_comes_twice_is_noticed() -> None:
    twice = event("TextDelta", "2", "")
    assert "1 numbers twice" in faults_of(GOOD[0], GOOD[1], twice, GOOD[2])


def test_an_end_that_comes_twice_is_noticed() -> None:
    assert "1 numbers twice" in faults_of(*GOOD, GOOD[2])


def test_text_that_is_taken_back_is_noticed() -> None:
    assert "taken back" in faults_of(*GOOD[:2], event("ReplySnapshot", "2", WHOLE[:24]), GOOD[2])


def test_a_reader_whose_text_is_no_prefix_is_noticed() -> None:
    assert "no prefix" in faults_of(GOOD[0], event("TextDelta", "2", "7.0@10.0000 8.1@10.1000 "))


def test_a_reader_that_misses_text_is_noticed() -> None:
    assert "final text is not the stored one" in faults_of(GOOD[0], event("TextDelta", "2", WHOLE[:24]), GOOD[2])


def test_a_reader_without_an_end_is_noticed() -> None:
    assert "never saw the end" in faults_of(*GOOD[:2])


def test_a_lost_reply_and_one_that_ended_badly_are_noticed() -> None:
    assert "lost" in faults_of(*GOOD, stored=None)
    failed = STORED | {"status": "FAILED", "generation": {"attempts": 1, "error": {"code": "INTERRUPTED"}}}
    assert "ended FAILED INTERRUPTED" in faults_of(*GOOD, stored=failed)
    assert "never ended" in faults_of(*GOOD, stored=STORED | {"status": "STREAMING"})


# ── verdicts ──


def test_an_outcome_that_saw_nothing_fails() -> None:
    outcome = Outcome()
    outcome.found([], 0, "replies")
    outcome.within("slowest", percentile([], 0.99), 1.0)
    assert outcome.wrong
    assert outcome.late
    assert "FAILS" in row("nothing", outcome)


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (50, 99, 3)


# ── the upstream ──


async def ask(made: Upstream, *messages: tuple[str, str]) -> str:
    """The text of an answer."""
    import aiohttp

    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    async with aiohttp.ClientSession() as http, http.post(f"{made.base_url}/chat/completions", json=body) as response:
        raw = (await response.read()).decode()
    return "".join(line.split('"content": "')[1].split('"')[0] for line in raw.splitlines() if '"content"' in line)


async def test_the_upstream_answers_differently_on_every_call() -> None:
    script = Script("key", 3, 1_000)
    async with upstream() as made:
        first, second = await ask(made, ("user", script.text)), await ask(made, ("user", script.text))
        assert is_whole(first, script)
        assert is_whole(second, script)
        assert (calls(first), calls(second)) == ([1], [2])
        assert [call.key for call in made.calls] == ["key", "key"]


async def test_an_unfinished_answer_is_gone_on_with_by_other_tokens() -> None:
    script = Script("key", 5, 1_000)
    async with upstream() as made:
        shown = "1.0@10.0000 1.1@10.1000 "
        rest = await ask(made, ("user", "earlier"), ("user", script.text), ("assistant", shown))
        assert is_whole(shown + rest, script)
        assert made.calls[0].goes_on_from == 2
        instructed = await ask(made, ("user", script.text), ("assistant", shown), ("user", "Go on."))
        assert is_whole(shown + instructed, script)


# ── the proxy ──


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[FaultyProxy, Callable[[], Any]]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with faulty_proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy, lambda: asyncio.open_connection("127.0.0.1", proxy.port)
    server.close()


async def test_the_proxy_passes_on_and_cuts_everything_at_once() -> None:
    async with echoing() as (proxy, connect):
        ends = [await connect() for _ in range(3)]
        for reader_, writer in ends:
            writer.write(b"hello")
            assert await reader_.readexactly(5) == b"hello"
        assert proxy.cut_all() == proxy.cuts == 3
        for reader_, _ in ends:
            with pytest.raises(ConnectionError):
                await reader_.readexactly(1)


async def test_the_proxy_cuts_every_so_often() -> None:
    async with echoing() as (proxy, connect):
        cutting = asyncio.create_task(proxy.cut_every(0.01))
        reader_, writer = await connect()
        writer.write(b"x")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader_.readexactly(2)
        cutting.cancel()
        assert proxy.cuts >= 1


async def test_the_proxy_waits_before_it_passes_on() -> None:
    async with echoing() as (proxy, connect):
        proxy.delay = 0.05
        reader_, writer = await connect()
        began = asyncio.get_running_loop().time()
        writer.write(b"x")
        assert await reader_.readexactly(1) == b"x"
        assert asyncio.get_running_loop().time() - began >= 2 * proxy.delay


async def test_a_half_open_connection_swallows_without_a_word() -> None:
    async with echoing() as (proxy, connect):
        reader_, writer = await connect()
        writer.write(b"a")
        assert await reader_.readexactly(1) == b"a"
        proxy.swallows = True
        writer.write(b"b")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader_.readexactly(1)
        assert not writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def test_a_refusing_proxy_lets_nobody_in() -> None:
    async with echoing() as (proxy, connect):
        proxy.refuses = True
        reader_, _ = await connect()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader_.readexactly(1)
