"""Conversations whose replies call tools: they are followed, approved from elsewhere, and talked to again.

What became of them is told by `tool_faults.py`.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.system.cluster import Cluster, Unreachable
from tests.system.load import Talk, Talkers, send
from tests.system.tokens import Script
from tests.system.tool_scripts import ToolScript
from tests.system.tool_watching import ToolWatcher
from tests.system.watching import Watcher

RESOLVE = """mutation ($id: ID!, $decision: ToolDecision!) {
  resolveToolCall(input: {toolCallId: $id, decision: $decision, comment: "as I please"}) {
    errors { code message } toolCall { status } } }"""
READERS = 2
MESSAGES = 2
"""In each conversation, one after the other."""
TOKENS, RATE = 24, 16
SHOWN_SECONDS = (0.0, 2.5)
"""Between a question and its answer by the user."""
DENIED = 0.2
AGAIN_AT_ONCE, AGAIN_SECONDS = 10, 60.0
TOOLS = ("book", "reserve", "reserve")


@dataclass
class ToolTalk:
    """A reply that calls tools, as its clients know it."""

    talk: Talk
    script: ToolScript
    watchers: list[ToolWatcher] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    """What the user says about each call."""
    asking: int | None = None
    """The process that is being told of a decision at this moment."""
    wrong: list[str] = field(default_factory=list)

    @property
    def reply_id(self) -> str:
        return self.talk.reply_id

    @property
    def watcher(self) -> ToolWatcher:
        return self.watchers[0]


@dataclass
class ToolLoad(Talkers):
    """So many conversations at a time, for as long as it runs."""

    cluster: Cluster
    seed: int
    talks: list[ToolTalk] = field(default_factory=list)

    @property
    def live(self) -> list[ToolTalk]:
        return [talk for talk in self.talks if talk.watcher.final is None]

    async def _go_on(self, talker: int) -> None:
        for n in itertools.count():
            conversation: str | None = None
            for message in range(MESSAGES):
                if self._closing:
                    return
                chance = random.Random(f"{self.seed}-{talker}-{n}-{message}")
                script = ToolScript(f"tools-{talker}-{n}-{message}", TOKENS, RATE, tool=chance.choice(TOOLS))
                conversation = await self._talk(script, talker + n, conversation, chance)

    async def _talk(self, script: ToolScript, place: int, conversation: str | None, chance: random.Random) -> str:
        """Send a message, and follow its reply to the end; the conversation."""
        sent = await send(self.cluster, script, place, conversation)
        made = ToolTalk(sent, script, [ToolWatcher(sent.reply_id) for _ in range(READERS)])
        sent.watchers = list(made.watchers)
        self.talks.append(made)
        async with asyncio.TaskGroup() as group:
            approving = group.create_task(approve(self.cluster, made, place, chance))
            await asyncio.gather(
                *(watcher.follow(self.cluster.address, place + n) for n, watcher in enumerate(made.watchers))
            )
            approving.cancel()
        return sent.conversation_id


async def approve(cluster: Cluster, made: ToolTalk, place: int, chance: random.Random) -> None:
    """Decide on each call that waits, after a while; goes on for ever."""
    while True:
        call_id = await made.watcher.waiting.get()
        await asyncio.sleep(chance.uniform(*SHOWN_SECONDS))
        decision = "DENY" if chance.random() < DENIED else "APPROVE"
        made.decided[call_id] = decision
        if wrong := await resolve(cluster, made, call_id, decision, chance.randrange(2) + place):
            made.wrong.append(wrong)


async def resolve(cluster: Cluster, made: ToolTalk, call_id: str, decision: str, place: int) -> str | None:
    """Until it is answered, each time by the next process; what is wrong with the answer."""
    for repeats in itertools.count():
        made.asking = place + repeats
        try:
            answer = (await cluster.ask(place + repeats, RESOLVE, id=call_id, decision=decision))["resolveToolCall"]
        except Unreachable:
            await asyncio.sleep(0.1)
            continue
        finally:
            made.asking = None
        codes = [error["code"] for error in answer["errors"]]
        if codes == ["UNAVAILABLE"]:
            await asyncio.sleep(0.1)
            continue
        taken_before = repeats > 0 and codes == ["CONFLICT"]
        return f"the decision was answered {codes}" if codes and not taken_before else None
    raise AssertionError("unreachable")


async def talk_again(cluster: Cluster, talks: Sequence[ToolTalk], script: Callable[[int], Script]) -> list[Talk]:
    """The next message in each conversation, answered without tools; some at a time."""
    conversations = dict.fromkeys(made.talk.conversation_id for made in talks)
    gate, again = asyncio.Semaphore(AGAIN_AT_ONCE), list[Talk]()

    async def one(n: int, conversation: str) -> None:
        async with gate:
            sent = await send(cluster, script(n), n, conversation)
            sent.watchers.append(Watcher(sent.reply_id))
            again.append(sent)
            with suppress(TimeoutError):  # that it never saw the end is found afterwards
                await asyncio.wait_for(sent.watchers[0].follow(cluster.address, n), AGAIN_SECONDS)

    await asyncio.gather(*(one(n, conversation) for n, conversation in enumerate(conversations)))
    return again
