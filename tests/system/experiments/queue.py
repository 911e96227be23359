"""Many queued replies and several processes that do nothing but make them: the model is asked once for each."""

import asyncio
from collections import Counter

from tests.system.claims import claimers, remember_claims
from tests.system.cluster import TERMINAL, Cluster, cluster
from tests.system.load import Talk, faults_in, send
from tests.system.report import LONG, Outcome, Progress
from tests.system.tokens import Script

SENDERS = 16


async def claim_a_queue(scale: float, seed: int, progress: Progress) -> Outcome:
    planned = max(40, round(2_000 * scale))
    outcome, claiming = Outcome(), 4 if scale >= LONG else 2
    async with cluster(1, command=("serve", "--no-worker")) as servers:
        talks = await _queue(servers, planned, progress)
        queued = await servers.number("SELECT count(*) FROM replies WHERE status = 'QUEUED'")
        share = str(max(3, planned // 50))  # at a time: few enough that every process gets some
        more = [servers.another(("worker",), TERTULIA_MAX_LIVE_REPLIES=share) for _ in range(claiming)]
        await remember_claims(servers)
        async with servers.database.acquire() as kit, kit.transaction():
            await kit.execute("SELECT 1 FROM replies FOR UPDATE")  # nobody claims before all can
            await asyncio.gather(*(servers.start(server) for server in more))
        await _until_settled(servers, planned, progress)
        claimed = await claimers(servers)
        calls = Counter(call["key"] for call in await servers.calls())
        faults = await faults_in(servers, talks)
        again = await servers.number("SELECT count(*) FROM replies WHERE attempt <> 1")
    outcome.injected = f"{queued:,} replies queued, {claimed} processes claimed"
    outcome.figures += [f"{sum(calls.values()):,} calls for {len(calls):,} replies", f"{again} further attempts"]
    outcome.expect(queued == planned, f"{queued} replies were queued instead of {planned}")
    outcome.expect(claimed == claiming, f"only {claimed} processes claimed")
    outcome.expect(sum(calls.values()) == len(calls) == planned, "the model was not called once for each reply")
    outcome.found(faults, len(talks), "replies")
    return outcome


async def _queue(servers: Cluster, planned: int, progress: Progress) -> list[Talk]:
    numbers, talks = iter(range(planned)), list[Talk]()

    async def sender() -> None:
        for n in numbers:
            talks.append(await send(servers, Script(f"queued-{n}", 16, rate=20)))
            progress(f"{len(talks)} of {planned} queued")

    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    return talks


async def _until_settled(servers: Cluster, planned: int, progress: Progress) -> None:
    async with asyncio.timeout(60 + planned / 5):
        settled = 0
        while settled < planned:
            settled = await servers.number("SELECT count(*) FROM replies WHERE status = ANY($1)", TERMINAL)
            progress(f"{settled} of {planned} settled")
            await asyncio.sleep(0.1)
