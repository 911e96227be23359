"""Argon2Hasher: what is verified, how long it takes for those who are not there, and how many may wait."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator

import argon2
import pytest

from domain.errors import Unavailable
from tertulia.passwords import MEMORY_KIB, THREADS, WAITING, Argon2Hasher

PASSWORD = "correct horse battery staple"


@pytest.fixture
async def hasher() -> AsyncIterator[Argon2Hasher]:
    hasher = Argon2Hasher()
    yield hasher
    await hasher.aclose()


async def test_the_password_is_verified_and_no_other(hasher: Argon2Hasher) -> None:
    hashed = await hasher.hash(PASSWORD)
    assert await hasher.verify(PASSWORD, hashed)
    assert not await hasher.verify(PASSWORD + " ", hashed)
    assert not await hasher.verify("", hashed)


async def test_a_hash_names_the_parameters_that_are_required(hasher: Argon2Hasher) -> None:
    assert (await hasher.hash(PASSWORD)).startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert MEMORY_KIB == 47104


async def test_the_same_password_gives_another_hash_each_time(hasher: Argon2Hasher) -> None:
    assert await hasher.hash(PASSWORD) != await hasher.hash(PASSWORD)


@pytest.mark.parametrize("password", ["", "ä😀", "a\0b", "\ud800", "x" * 100_000])
async def test_any_text_can_be_a_password_and_is_no_other(hasher: Argon2Hasher, password: str) -> None:
    hashed = await hasher.hash(password)
    assert await hasher.verify(password, hashed)
    assert not await hasher.verify(password.replace("\ud800", "?").replace("\0", "") + "x", hashed)


async def test_nobodys_password_is_verified(hasher: Argon2Hasher) -> None:
    assert not await hasher.verify(PASSWORD, None)
    assert not await hasher.verify("", None)


@pytest.mark.parametrize("hashed", ["", "plain", "$2b$12$abc", "$argon2id$v=19$m=47104,t=1,p=1$broken", "$argon2id$ä"])
async def test_a_stored_hash_that_cannot_be_read_is_nobodys_and_outdated(hasher: Argon2Hasher, hashed: str) -> None:
    assert not await hasher.verify(PASSWORD, hashed)
    assert hasher.is_outdated(hashed)


async def test_a_hash_of_weaker_parameters_is_verified_and_outdated(hasher: Argon2Hasher) -> None:
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    assert await hasher.verify(PASSWORD, weak)
    assert hasher.is_outdated(weak)
    assert not hasher.is_outdated(await hasher.hash(PASSWORD))


async def test_who_finds_the_queue_full_is_sent_away_and_the_others_are_served(hasher: Argon2Hasher) -> None:
    asked = THREADS + WAITING + 5
    answers = await asyncio.gather(*(hasher.verify(PASSWORD, None) for _ in range(asked)), return_exceptions=True)
    assert answers[: THREADS + WAITING] == [False] * (THREADS + WAITING)
    assert [type(answer) for answer in answers[THREADS + WAITING :]] == [Unavailable] * 5
    assert not await hasher.verify(PASSWORD, None)


async def test_those_who_go_while_they_wait_leave_their_place_to_others(hasher: Argon2Hasher) -> None:
    waiting = [asyncio.create_task(hasher.verify(PASSWORD, None)) for _ in range(THREADS + WAITING)]
    await asyncio.sleep(0)
    for task in waiting[THREADS:]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await asyncio.gather(*(hasher.verify(PASSWORD, None) for _ in range(WAITING))) == [False] * WAITING


async def test_closing_waits_for_what_was_begun() -> None:
    hasher = Argon2Hasher()
    begun = asyncio.create_task(hasher.hash(PASSWORD))
    await asyncio.sleep(0)
    await hasher.aclose()
    assert (await begun).startswith("$argon2id$")


async def test_how_long_known_and_unknown_users_take(hasher: Argon2Hasher) -> None:
    hashed = await hasher.hash(PASSWORD)
    cases = {"right": hashed, "wrong": hashed, "unknown": None, "unreadable": "$argon2id$broken"}
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(9):
        for case, stored in cases.items():
            begun = time.perf_counter()
            await hasher.verify(PASSWORD if case == "right" else "wrong", stored)
            seconds[case].append(time.perf_counter() - begun)
    print({case: f"{statistics.median(taken) * 1000:.2f} ms" for case, taken in seconds.items()})
