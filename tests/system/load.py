"""Clients of the kit: they send, repeat what was not answered, follow from several processes, and keep it all.

What became of it is told by `faults_in`, from what clients saw, what the API says afterwards and what the database
holds. Nothing here knows which fault goes on.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.system.cluster import TERMINAL, Cluster, Unreachable
from tests.system.tokens import Script, is_clean, is_whole
from tests.system.watching import Watcher

SEND = """mutation ($text: String!, $key: String!, $conversation: ID) {
  sendMessage(input: {text: $text, idempotencyKey: $key, conversationId: $conversation}) {
    errors { code message } conversation { id } message { id } reply { id } replayed } }"""
STOP = "mutation ($id: ID!) { stopReply(input: {replyId: $id}) { errors { code } reply { status } } }"
NODES = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Message {
  id text status generation { attempts error { code } } } } }"""
NODES_AT_ONCE = 100


@dataclass
class Talk:
    """A message that was acknowledged, its reply, and who reads it."""

    script: Script
    message_id: str
    reply_id: str
    conversation_id: str = ""
    repeats: int = 0
    watchers: list[Watcher] = field(default_factory=list)


async def send(cluster: Cluster, script: Script, place: int = 0, conversation_id: str | None = None) -> Talk:
    """Until it is acknowledged: the same key again, each time to the next process."""
    said = {"text": script.text, "key": script.key, "conversation": conversation_id}
    for repeats in itertools.count():
        try:
            sent = (await cluster.ask(place + repeats, SEND, **said))["sendMessage"]
        except Unreachable:
            await asyncio.sleep(0.1)
            continue
        if not sent["errors"]:
            return Talk(script, sent["message"]["id"], sent["reply"]["id"], sent["conversation"]["id"], repeats)
        assert sent["errors"][0]["code"] == "UNAVAILABLE", sent
        await asyncio.sleep(0.1)
    raise AssertionError("unreachable")


async def talk(
    cluster: Cluster, script: Script, place: int, readers: int, kept: list[Talk], silence: float | None = None
) -> Talk:
    """Send, and follow from `readers` processes until all of them have seen the end. `kept` gets it at once."""
    made = await send(cluster, script, place)
    made.watchers = [Watcher(made.reply_id) for _ in range(readers)]
    kept.append(made)
    await asyncio.gather(
        *(watcher.follow(cluster.address, place + n, silence) for n, watcher in enumerate(made.watchers))
    )
    return made


class Talkers:
    """So many conversations at a time, for as long as it runs; what each says is `_go_on`, until `_closing`."""

    _closing: bool = False

    @asynccontextmanager
    async def running(self, live: int, patience: float = 120) -> AsyncIterator[None]:
        """At the end nothing new is begun; what goes on has so many seconds to end by itself."""
        talkers = [asyncio.create_task(self._go_on(n)) for n in range(live)]
        try:
            yield
            self._closing = True
            done, _ = await asyncio.wait(talkers, timeout=patience)
            for task in done:
                task.result()
        finally:
            for task in talkers:
                task.cancel()
            await asyncio.gather(*talkers, return_exceptions=True)

    async def _go_on(self, talker: int) -> None:
        raise NotImplementedError


@dataclass
class Load(Talkers):
    """So many conversations at a time, one reply after another, for as long as it runs."""

    cluster: Cluster
    script: Callable[[str], Script]
    readers: int = 3
    silence: float | None = None
    talks: list[Talk] = field(default_factory=list)

    async def _go_on(self, talker: int) -> None:
        for n in itertools.count():
            if self._closing:
                return
            script = self.script(f"talk-{talker}-{n}")
            await talk(self.cluster, script, talker + n, self.readers, self.talks, self.silence)


def scripts(seed: int, tokens: tuple[int, int], rate: float, first: float = 0.0) -> Callable[[str], Script]:
    """Random lengths that follow from the seed and the key, so that a run can be had again."""

    def made(key: str) -> Script:
        chance = random.Random(f"{seed}-{key}")
        return Script(key, chance.randint(*tokens), rate, chance.uniform(0, first))

    return made


# ── what became of it ──

Ends = Callable[[Talk, dict[str, Any]], bool]


def completes(_talk: Talk, stored: dict[str, Any]) -> bool:
    return bool(stored["status"] == "COMPLETE")


async def stored_replies(cluster: Cluster, talks: Sequence[Talk], query: str = NODES) -> dict[str, dict[str, Any]]:
    """The replies as the API tells them, by id."""
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(talks), NODES_AT_ONCE):
        ids = [talk.reply_id for talk in talks[start : start + NODES_AT_ONCE]]
        nodes = await patiently(cluster, query, ids=ids)
        found |= {node["id"]: node for node in nodes["nodes"] if node is not None}
    return found


async def patiently(cluster: Cluster, query: str, **variables: object) -> dict[str, Any]:
    """A query to whichever process answers it."""
    for place in itertools.count():
        try:
            return await cluster.ask(place, query, **variables)
        except Unreachable:
            await asyncio.sleep(0.2)
    raise AssertionError("unreachable")


async def lost_messages(cluster: Cluster, talks: Sequence[Talk]) -> list[str]:
    """Acknowledged messages that are not there, or there twice."""
    query = "SELECT id, idempotency_key AS key FROM messages WHERE role = 'USER'"
    rows = await cluster.rows(query)
    ids, keys = {row["id"] for row in rows}, [row["key"] for row in rows]
    lost = [f"message {talk.message_id} is lost" for talk in talks if talk.message_id not in ids]
    return lost + [f"key {key} stands for {keys.count(key)} messages" for key in set(keys) if keys.count(key) > 1]


async def faults_in(cluster: Cluster, talks: Sequence[Talk], ends: Ends = completes) -> list[str]:
    """Everything that is not as promised, one sentence for each fault; `ends` says which ends are right."""
    stored = await stored_replies(cluster, talks)
    found = await lost_messages(cluster, talks)
    for made in talks:
        found += reply_faults(made, stored.get(made.reply_id), ends)
    return found


def reply_faults(made: Talk, stored: dict[str, Any] | None, ends: Ends) -> list[str]:
    if stored is None:
        return [f"reply {made.reply_id} is lost"]
    who, text = made.script.key, stored["text"]
    found = []
    if stored["status"] not in TERMINAL:
        found.append(f"{who} never ended: {stored['status']}")
    elif not ends(made, stored):
        found.append(
            f"{who} ended {stored['status']} {error_of(stored)} after {stored['generation']['attempts']} attempts"
        )
    if stored["status"] == "COMPLETE" and not is_whole(text, made.script):
        found.append(f"{who} is complete, but its text is not whole")
    elif not is_clean(text):
        found.append(f"{who} has gaps, repetitions or halves of tokens")
    for watcher in made.watchers:
        found += [f"{who}: {fault}" for fault in reader_faults(watcher, text)]
    return found


def error_of(stored: dict[str, Any]) -> str:
    error = (stored["generation"] or {}).get("error")
    return error["code"] if error else "without error"


def reader_faults(watcher: Watcher, stored_text: str) -> list[str]:
    found = []
    if watcher.seen.doubled:
        found.append(f"a reader got {len(watcher.seen.doubled)} numbers twice")
    if watcher.seen.taken_back:
        found.append("text that a reader had seen was taken back")
    if not stored_text.startswith(watcher.text):
        found.append("what a reader saw is no prefix of what is stored")
    if watcher.final is None:
        found.append("a reader never saw the end")
    elif not watcher.text == watcher.final["text"] == stored_text:
        found.append("a reader's final text is not the stored one")
    return found
