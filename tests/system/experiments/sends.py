"""The same message sent several times at once over all processes, as clients do that lost the answer."""

import asyncio
import random
from collections import Counter

from tests.system.cluster import Cluster, cluster
from tests.system.load import Talk, faults_in, send
from tests.system.polling import until
from tests.system.report import Outcome, Progress, processes
from tests.system.tokens import Script

AT_ONCE = 8
TIMES = (2, 10)
ENDED = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM replies WHERE status IN ('QUEUED', 'STREAMING'))"


async def repeat_sends(scale: float, seed: int, progress: Progress) -> Outcome:
    planned, chance, outcome = max(20, round(1_000 * scale)), random.Random(seed), Outcome()
    async with cluster(processes(scale)) as servers:
        talks, requests, split = await _send_all(servers, planned, chance, progress)
        await until(lambda: servers.rows(ENDED))
        messages = await servers.number("SELECT count(*) FROM messages WHERE role = 'USER'")
        replies = await servers.number("SELECT count(*) FROM replies")
        faults = await faults_in(servers, talks)
        calls = Counter(call["key"] for call in await servers.calls())
    outcome.injected = f"{planned:,} sends, {requests:,} requests"
    outcome.figures += [f"{messages:,} messages", f"{replies:,} replies", f"{sum(calls.values()):,} calls of the model"]
    outcome.expect(messages == planned, f"{messages} messages instead of {planned}")
    outcome.expect(replies == planned, f"{replies} replies instead of {planned}")
    outcome.expect(not split, f"{len(split)} keys were answered with several ids, e.g. {split[:1]}")
    outcome.expect(sum(calls.values()) == len(calls) == planned, "the model was not called once for each")
    outcome.found(faults, len(talks), "replies")
    return outcome


async def _send_all(
    servers: Cluster, planned: int, chance: random.Random, progress: Progress
) -> tuple[list[Talk], int, list[str]]:
    """One talk for each message, the number of requests, and the keys whose answers disagree."""
    talks, requests, split = list[Talk](), 0, list[str]()
    plan = [(f"send-{n}", chance.randint(*TIMES)) for n in range(planned)]
    pending = iter(plan)

    async def sender() -> None:
        nonlocal requests
        for key, times in pending:
            sends = [send(servers, Script(key, 4, rate=40), place) for place in range(times)]
            made = await asyncio.gather(*sends)
            requests += times + sum(one.repeats for one in made)
            talks.append(made[0])
            if len({(one.message_id, one.reply_id) for one in made}) > 1:
                split.append(key)
            progress(f"{len(talks)} of {planned} messages, {requests} requests")

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    return talks, requests, split
