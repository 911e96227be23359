"""One real server process on SQLite, killed, stopped and started again."""

import asyncio
import random
import signal
import time
from pathlib import Path

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from tests.system.polling import until
from tests.system.processes import ServerProcess, graphql, server_process
from tests.system.upstream import upstream
from tests.system.watching import Watcher

SEND = "mutation ($text: String!) { sendMessage(input: {text: $text}) { message { id } reply { id } } }"
READ = "query ($id: ID!) { message(id: $id) { text status generation { error { code } } } }"
STOP = "mutation ($id: ID!) { stopReply(input: {replyId: $id}) { reply { status text } } }"


async def send(server: ServerProcess, text: str = "Hi") -> tuple[str, str]:
    """The ids of the message and of the reply."""
    sent = (await graphql(server.url, SEND, text=text))["sendMessage"]
    assert isinstance(sent, dict)
    return sent["message"]["id"], sent["reply"]["id"]


async def read(server: ServerProcess, message_id: str) -> dict[str, object]:
    message = (await graphql(server.url, READ, id=message_id))["message"]
    assert isinstance(message, dict), f"{message_id} is lost"
    return message


async def seen(watcher: Watcher) -> str:
    return watcher.text


async def watch_until(watcher: Watcher, url: str, characters: int) -> None:
    async for _ in watcher.watch(url):
        if len(watcher.text) >= characters:
            return


@pytest.mark.parametrize(("round_", "recovery"), [(1, "continue"), (2, "continue"), (3, "keep")])
async def test_after_kill_9_nothing_is_lost_and_what_was_seen_is_a_prefix_of_what_is_stored(
    tmp_path: Path, round_: int, recovery: str
) -> None:
    async with (
        upstream(tokens=300 if recovery == "continue" else 10_000) as endpoint,
        server_process(tmp_path, endpoint.base_url, TERTULIA_RECOVERY=recovery) as server,
    ):
        sent = [await send(server, f"Message {n}") for n in range(5)]
        watchers = [Watcher(reply_id) for _, reply_id in sent]
        await asyncio.gather(*(watch_until(w, server.url, random.Random(round_).randint(1, 400)) for w in watchers))
        await server.kill()
        started = time.monotonic()
        await server.start()
        for (message_id, reply_id), watcher in zip(sent, watchers, strict=True):
            assert (await read(server, message_id))["text"] == f"Message {sent.index((message_id, reply_id))}"
            seen = watcher.text
            async for _ in watcher.watch(server.url):
                pass
            assert watcher.final is not None
            assert watcher.final["status"] == ("COMPLETE" if recovery == "continue" else "FAILED")
            stored = (await read(server, reply_id))["text"]
            assert watcher.text == watcher.final["text"] == stored
            assert str(stored).startswith(seen)
        print(f"settled {time.monotonic() - started:.2f} s after the start")


async def test_stopping_takes_effect_at_once_and_the_upstream_sees_the_close(tmp_path: Path) -> None:
    async with upstream(tokens=10_000) as endpoint, server_process(tmp_path, endpoint.base_url) as server:
        _, reply_id = await send(server)
        watcher = Watcher(reply_id)
        await watch_until(watcher, server.url, 20)
        started = time.monotonic()
        stopped = (await graphql(server.url, STOP, id=reply_id))["stopReply"]
        print(f"stopped after {1000 * (time.monotonic() - started):.0f} ms")
        assert isinstance(stopped, dict)
        assert stopped["reply"]["status"] == "STOPPED"
        assert stopped["reply"]["text"].startswith(watcher.text)
        await endpoint.closed.wait()


async def test_a_stopped_server_closes_its_sockets_with_1012_and_hands_its_replies_over(tmp_path: Path) -> None:
    async with (
        upstream(tokens=10_000) as endpoint,
        server_process(tmp_path, endpoint.base_url, TERTULIA_SHUTDOWN_GRACE="0") as server,
    ):
        _, reply_id = await send(server)
        watcher = Watcher(reply_id)
        watching = asyncio.create_task(watch_until(watcher, server.url, 10**9))
        await until(lambda: seen(watcher))
        assert await server.terminate() in (0, -signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            await watching
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        await server.start()
        reply = await read(server, reply_id)
        assert reply["status"] in ("QUEUED", "STREAMING")
        assert str(reply["text"]).startswith(watcher.text)


async def test_a_second_server_on_the_same_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with upstream() as endpoint, server_process(tmp_path, endpoint.base_url):
        with pytest.raises(AssertionError, match="Another server already uses"):
            async with server_process(tmp_path, endpoint.base_url):
                pass


async def test_a_stopped_server_lets_go_of_its_streams_over_http_and_they_do_not_look_whole(tmp_path: Path) -> None:
    async with (
        upstream(tokens=10_000) as endpoint,
        server_process(tmp_path, endpoint.base_url, TERTULIA_SHUTDOWN_GRACE="0") as server,
        aiohttp.ClientSession() as http,
    ):
        _, reply_id = await send(server)
        query = f'subscription {{ replyStream(replyId: "{reply_id}") {{ cursor }} }}'
        headers = {"accept": "text/event-stream"}
        async with http.post(f"{server.url}/graphql", json={"query": query}, headers=headers) as response:
            await response.content.readany()
            started = time.monotonic()
            await server.terminate()
            print(f"stopped after {time.monotonic() - started:.1f} s")
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        assert "Traceback" not in server.output
        assert "exceeded" not in server.output
