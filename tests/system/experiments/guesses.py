"""Passwords guessed at once by every way in and on every process, and one address that tries many accounts.

A password counts as tried when the server says BAD_CREDENTIALS: it has looked, then, and the guesser has learnt.
"""

import asyncio
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field

from domain.accounts import digest, normalised_email
from tests.system.accounts import (
    CHANGE,
    DELETE,
    LOGIN,
    REFRESH,
    VIEWER,
    Answer,
    SignedIn,
    accounts_on,
    asked,
    command,
    login,
    operate,
    operate_by_socket,
    operate_by_stream,
    post,
    register,
)
from tests.system.cluster import Cluster, cluster
from tests.system.report import LONG, Outcome, Progress, processes

TRIES = 10
WINDOW_MS = 15 * 60 * 1000
RIGHT, NEW = "right horse battery staple", "another horse battery staple"
TWO = """mutation ($input: LoginInput!) {
  one: login(input: $input) { errors { code } } two: login(input: $input) { errors { code } } }"""
TWO_BY_FRAGMENT = """mutation ($input: LoginInput!) { ...one ...two }
fragment one on Mutation { one: login(input: $input) { errors { code } } }
fragment two on Mutation { two: login(input: $input) { errors { code } } }"""
BUNDLES = ("alias", "fragment", "batch")
PER_ADDRESS, ANONYMOUS = 20, 60
SERVER = "{ server { version } }"


@dataclass
class Guesses:
    """What came of the guesses at all accounts."""

    made: Counter[str] = field(default_factory=Counter)
    """How often each code was the answer."""
    tried: list[int] = field(default_factory=list)
    """Passwords that were tried against each account."""
    counted: list[int] = field(default_factory=list)
    """As the database has it."""
    ways: Counter[str] = field(default_factory=Counter)
    """By which ways passwords were tried."""
    whole: int = 0
    """Bundles of guesses in one request that were not refused as a whole."""
    faults: list[str] = field(default_factory=list)


async def guess_passwords(scale: float, seed: int, progress: Progress) -> Outcome:
    planned, guesses, chance = (12 if scale >= LONG else 1), Guesses(), random.Random(seed)
    async with cluster(processes(scale), **accounts_on()) as servers:
        attacker = await register(servers, 0, "attacker@example.com", "an attacker's own password")
        for n in range(planned):
            await _attack(servers, f"ﬁona.rené-{n}@example.com", attacker, chance, guesses)
            progress(f"{n + 1} of {planned} accounts attacked, {guesses.made.total()} guesses")
    outcome = Outcome(
        f"{guesses.made.total()} guesses at {planned} accounts, by 9 ways on {processes(scale)} processes"
    )
    outcome.figures += [f"{times} {code}" for code, times in sorted(guesses.made.items())]
    outcome.figures.append(f"{max(guesses.tried)} passwords tried of an account at most, by {len(guesses.ways)} ways")
    outcome.expect(max(guesses.tried) <= TRIES, f"{max(guesses.tried)} passwords of an account were tried")
    outcome.expect(min(guesses.tried) == TRIES, f"only {min(guesses.tried)} were: the limit was not met")
    outcome.expect(guesses.counted == [TRIES] * planned, f"the database counts {guesses.counted}")
    outcome.expect(guesses.whole == 0, f"{guesses.whole} bundles of guesses were not refused as a whole")
    outcome.found(guesses.faults, planned, "locked accounts")
    return outcome


async def _attack(servers: Cluster, email: str, attacker: SignedIn, chance: random.Random, guesses: Guesses) -> None:
    own = await register(servers, 0, email, RIGHT)
    stolen = SignedIn.of((await login(servers, 1, email.upper(), RIGHT))["login"])
    ways = _ways(servers, email, attacker, stolen)
    order = list(ways)
    chance.shuffle(order)
    answers = await asyncio.gather(*(ways[name] for name in order))
    codes = [(name.split()[0], answer.code) for name, found in zip(order, answers, strict=True) for answer in found]
    tried = Counter(way for way, code in codes if code == "BAD_CREDENTIALS")
    guesses.made.update(code for _, code in codes)
    guesses.whole += sum(way in BUNDLES and code not in ("REFUSED", "QUERY_TOO_COMPLEX") for way, code in codes)
    guesses.ways += tried
    guesses.tried.append(tried.total())
    guesses.counted.append(await _counted(servers, email))
    guesses.faults += await _faults_of_a_locked_account(servers, email, own)
    guesses.faults += await _faults_of_an_unlocked_account(servers, email, [own, stolen])


def spellings(email: str) -> list[str]:
    """The same address as people, and those who guess, may write it."""
    return [
        email,
        email.upper(),
        f"  {email.title()}\t",
        unicodedata.normalize("NFD", email),
        unicodedata.normalize("NFKD", email),
        email.replace("example", "ｅｘａｍｐｌｅ"),
        f"\u00a0{email}\u2003",
    ]


def _ways(servers: Cluster, email: str, attacker: SignedIn, stolen: SignedIn) -> dict[str, Awaitable[list[Answer]]]:
    """What goes on at once, by name: the way, and a number where it is gone several times."""
    places, ways = range(len(servers.servers)), dict[str, Awaitable[list[Answer]]]()
    for n, spelling in enumerate(spellings(email) * len(places)):
        ways[f"login {n}"] = _one(login(servers, n, spelling, f"wrong password {n}"))
    for n in range(8):
        request = asked(LOGIN, email=email, password=f"forwarded {n}")
        pretended = {"x_forwarded_for": f"192.0.2.{n}", "forwarded": f"for=192.0.2.{n}", "x_real_ip": f"192.0.2.{n}"}
        ways[f"forwarded {n}"] = _one(post(servers, n, request, **pretended))
    for n in places:
        request = asked(TWO, email=email, password="twice")
        ways[f"alias {n}"] = _one(post(servers, n, request))
        ways[f"fragment {n}"] = _one(post(servers, n, request | {"query": TWO_BY_FRAGMENT}))
        batch = [asked(LOGIN, email=email, password=f"batch {each}") for each in range(5)]
        ways[f"batch {n}"] = _one(post(servers, n, batch))
        several = [asked(LOGIN, email=email, password=f"socket {n} {each}") for each in range(5)]
        ways[f"socket {n}"] = operate_by_socket(servers, n, attacker.access, several)
        ways[f"stream {n}"] = _one(operate_by_stream(servers, n, LOGIN, email=email, password=f"stream {n}"))
        change = {"currentPassword": f"changing {n}", "newPassword": "the attacker's choice"}
        ways[f"change {n}"] = _one(operate(servers, n, CHANGE, stolen.access, **change))
        ways[f"delete {n}"] = _one(operate(servers, n, DELETE, stolen.access, password=f"deleting {n}"))
    return ways


async def _one(answer: Awaitable[Answer]) -> list[Answer]:
    return [await answer]


async def _counted(servers: Cluster, email: str) -> int:
    key = f"tries:{digest(normalised_email(email))}"
    return await servers.number("SELECT json_array_length(hits::json) FROM rates WHERE key = $1", key)


async def _faults_of_a_locked_account(servers: Cluster, email: str, own: SignedIn) -> list[str]:
    """Nobody gets in, not by the right password either; who is in stays in."""
    found, current = list[str](), own
    for place in range(len(servers.servers)):
        answer = await login(servers, place, email, RIGHT)
        if answer.code != "RATE_LIMITED":
            found.append(f"process {place} answers {answer.code} to the right password of a locked account")
        elif not 0 < answer["login"]["errors"][0]["retryAfterMs"] <= WINDOW_MS:
            found.append(f"process {place} does not say when to come back: {answer.text}")
        if (await operate(servers, place, VIEWER, current.access)).code != "OK":
            found.append(f"process {place} has put out who was signed in")
        refreshed = await operate(servers, place, REFRESH, refreshToken=current.refresh)
        if refreshed.code == "OK":
            current = SignedIn.of(refreshed["refreshSession"])
        else:
            found.append(f"process {place} does not renew a session of a locked account: {refreshed.code}")
    return found


async def _faults_of_an_unlocked_account(servers: Cluster, email: str, ended: list[SignedIn]) -> list[str]:
    """A new password by the operator: every process takes it at once, and nothing else."""
    found = list[str]()
    code, said = await command(servers, "user", "set-password", email, typed=f"{NEW}\n")
    if code:
        found.append(f"set-password failed: {said[-200:]}")
    for place in range(len(servers.servers)):
        for password, expected in ((NEW, "OK"), (RIGHT, "BAD_CREDENTIALS")):
            answer = await login(servers, place, email, password)
            if answer.code != expected:
                found.append(f"after set-password process {place} answers {answer.code} instead of {expected}")
        for session in ended:
            if (await operate(servers, place, VIEWER, session.access)).code != "UNAUTHENTICATED":
                found.append(f"after set-password process {place} still serves a session from before")
    return found


async def limit_an_address(scale: float, seed: int, progress: Progress) -> Outcome:
    """Failed sign-ins and operations of a stranger's address, whose limits are small here, over all processes."""
    limits = {"LOGINS_PER_ADDRESS": str(PER_ADDRESS), "ANONYMOUS_OPERATIONS_PER_ADDRESS": str(ANONYMOUS)}
    made = accounts_on(**{f"TERTULIA_{name}": value for name, value in limits.items()})
    async with cluster(processes(scale), **made) as servers:
        began = time.monotonic()
        guesses = [login(servers, n, f"user-{seed}-{n}@example.com", "guess") for n in range(PER_ADDRESS + 20)]
        codes = Counter(answer.code for answer in await asyncio.gather(*guesses))
        others = [post(servers, n, {"query": SERVER}, x_forwarded_for=f"192.0.2.{n}") for n in range(ANONYMOUS)]
        answers = await asyncio.gather(*others)
        progress(f"{sum(codes.values()) + len(answers)} operations of a stranger")
        took = time.monotonic() - began
    served = sum(codes.values()) + sum(answer.code == "OK" for answer in answers)
    limited = [answer for answer in answers if answer.status == 429 and answer.code == "RATE_LIMITED"]
    outcome = Outcome(f"{sum(codes.values())} sign-ins to as many accounts, {len(answers)} other operations")
    outcome.figures += [f"{codes['BAD_CREDENTIALS']} passwords tried", f"{served} operations served in {took:.1f} s"]
    outcome.expect(codes["BAD_CREDENTIALS"] == PER_ADDRESS, f"{dict(codes)}, where {PER_ADDRESS} may be tried")
    outcome.expect(sum(codes.values()) == codes["BAD_CREDENTIALS"] + codes["RATE_LIMITED"], f"other answers: {codes}")
    outcome.expect(served == ANONYMOUS or took > 60, f"{served} operations were served, where {ANONYMOUS} may be")
    outcome.expect(len(limited) == sum(codes.values()) + len(answers) - served, "not all others were answered 429")
    return outcome
