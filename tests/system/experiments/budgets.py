"""One user's budget, spent from all processes at once; then the process is killed that makes a reply of another's.

The upstream tells what each call cost. It never tells of one that was cut, so after the kill only the reservation is
looked at, and what was stored in its place.
"""

import asyncio
import time

from tests.system.cluster import Cluster, cluster
from tests.system.polling import until
from tests.system.processes import ServerProcess
from tests.system.report import LONG, Outcome, Progress, processes
from tests.system.tokens import Script

BUDGET = 10_000
SETTLED_SECONDS = 15.0
LIMITS = {
    "TERTULIA_AUTH": "password",
    "TERTULIA_REGISTRATION": "open",
    "TERTULIA_SECRET_KEY": "a key for nothing but the experiments of this kit",
    "TERTULIA_SENDS_PER_MINUTE": "0",
    "TERTULIA_MAX_LIVE_REPLIES_PER_USER": "0",
    "TERTULIA_TOKENS_PER_DAY": str(BUDGET),
    "TERTULIA_TOKENS_PER_MONTH": "0",
    "TERTULIA_MAX_TOKENS": "600",
    "TERTULIA_RECOVERY": "keep",
}
REGISTER = """mutation ($email: String!) { register(input: {email: $email, password: "correct horse battery"}) {
  accessToken errors { code message } } }"""
SEND = """mutation ($text: String!) { sendMessage(input: {text: $text}) {
  errors { code ... on QuotaExceededError { quota { name limit used resetsAt } } } reply { id } } }"""
QUOTAS = "{ viewer { id quotas { name limit used } } }"
PAD = 24
"""Makes a token of the kit as long as ten of the upstream's account."""


async def spend_a_budget(scale: float, seed: int, progress: Progress) -> Outcome:
    outcome, at_once = Outcome(), 50 if scale >= LONG else 20
    async with cluster(processes(scale), proxied=False, command=("serve",), **LIMITS) as servers:
        await _sign_in(servers, "ann@example.org")
        accepted, refused = await _spend_all(servers, at_once, progress)
        cost = sum(call["usage"] for call in await servers.calls())
        told = await _used(servers)
        stored = await servers.number("SELECT coalesce(sum(tokens), 0)::int FROM token_usage")
        outcome.injected = f"{accepted + refused} sends, {at_once} at once"
        outcome.figures += [f"{accepted} taken, {refused} refused", f"{cost:,} of {BUDGET:,} tokens spent"]
        outcome.expect(accepted > 0 and refused > 0, f"{accepted} taken and {refused} refused")
        outcome.expect(BUDGET / 2 < cost <= BUDGET, f"{cost} tokens spent of {BUDGET}")
        outcome.expect(cost == stored == told, f"the upstream says {cost}, the database {stored}, the API {told}")
        await _sign_in(servers, "ben@example.org")
        await _kill_in_mid_reply(servers, outcome)
    return outcome


async def _sign_in(servers: Cluster, email: str) -> None:
    registered = (await servers.ask(0, REGISTER, email=email))["register"]
    assert not registered["errors"], registered
    servers.headers["authorization"] = f"Bearer {registered['accessToken']}"


async def _used(servers: Cluster) -> int:
    (quota,) = (await servers.ask(1, QUOTAS))["viewer"]["quotas"]
    used: int = quota["used"]
    return used


async def _spend_all(servers: Cluster, at_once: int, progress: Progress) -> tuple[int, int]:
    """Send, all at once, and again when all replies have ended, until nothing is taken; how much was, and was not."""
    accepted = refused = 0
    while True:
        scripts = [Script(f"budget-{n}", 50, 50, pad=PAD) for n in range(at_once)]
        sent = await asyncio.gather(*(servers.ask(n, SEND, text=one.text) for n, one in enumerate(scripts)))
        errors = [error["code"] for one in sent for error in one["sendMessage"]["errors"]]
        assert set(errors) <= {"QUOTA_EXCEEDED"}, errors
        accepted, refused = accepted + at_once - len(errors), refused + len(errors)
        progress(f"{accepted} taken, {refused} refused, {await _used(servers):,} tokens used or reserved")
        if len(errors) == at_once:
            return accepted, refused
        await until(lambda: servers.rows("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM replies WHERE last_seq IS NULL)"))


async def _kill_in_mid_reply(servers: Cluster, outcome: Outcome) -> None:
    """`kill -9` of the process that makes a long reply; its reservation is to end in time, as what it had spent."""
    sent = (await servers.ask(0, SEND, text=Script("killed", 45, 2, pad=PAD).text))["sendMessage"]
    reply_id = sent["reply"]["id"]
    before = await _used(servers)
    victim = await until(lambda: _owner_of(servers, reply_id))
    assert victim is not None
    await victim.kill()
    killed = time.monotonic()
    query = """SELECT reserved_tokens, status, coalesce((SELECT sum(input_tokens + output_tokens) FROM reply_attempts
               WHERE reply_id = $1), 0)::int AS spent FROM replies WHERE id = $1 AND status <> 'STREAMING'"""
    (row,) = await until(lambda: servers.rows(query, reply_id))
    took = time.monotonic() - killed
    place = next(n for n, server in enumerate(servers.servers) if server.runs)
    (quota,) = (await servers.ask(place, QUOTAS))["viewer"]["quotas"]
    outcome.figures.append(f"{before:,} tokens reserved, {row['spent']:,} spent at the kill")
    outcome.within("reservation settled", took, SETTLED_SECONDS)
    outcome.expect(row["status"] == "FAILED", f"the reply is {row['status']}")
    outcome.expect(0 < row["spent"] < before, f"{row['spent']} spent of {before} reserved")
    outcome.expect(quota["used"] == row["spent"], f"{quota['used']} used after the kill, {row['spent']} spent")


async def _owner_of(servers: Cluster, reply_id: str) -> ServerProcess | None:
    """The process that makes the reply, once that shows text."""
    query = """SELECT owner FROM replies WHERE id = $1 AND status = 'STREAMING'
               AND EXISTS (SELECT 1 FROM reply_events WHERE reply_id = $1 AND kind = 'text')"""
    rows = await servers.rows(query, reply_id)
    return servers.owners().get(rows[0]["owner"]) if rows else None
