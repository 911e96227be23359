"""The contract of PasswordHasher: Argon2 and its quick stand-in."""

from collections.abc import AsyncIterator

import pytest

from domain.ports import PasswordHasher
from tertulia.passwords import Argon2Hasher
from tests.doubles import QuickHasher

PASSWORD = "correct horse battery staple"
ANY = ["", "ä😀", "a\0b", "\ud800", "$", "x" * 10_000]


@pytest.fixture(params=["argon2", "quick"])
async def hasher(request: pytest.FixtureRequest) -> AsyncIterator[PasswordHasher]:
    if request.param == "quick":
        yield QuickHasher()
        return
    hasher = Argon2Hasher()
    yield hasher
    await hasher.aclose()


@pytest.mark.parametrize("password", [PASSWORD, *ANY])
async def test_a_password_is_verified_and_no_other(hasher: PasswordHasher, password: str) -> None:
    hashed = await hasher.hash(password)
    assert await hasher.verify(password, hashed)
    assert not await hasher.verify(password + "x", hashed)
    assert not await hasher.verify("another", hashed)


async def test_a_hash_is_salted_and_does_not_hold_the_password(hasher: PasswordHasher) -> None:
    first, second = await hasher.hash(PASSWORD), await hasher.hash(PASSWORD)
    assert first != second
    assert PASSWORD not in first


@pytest.mark.parametrize("password", [PASSWORD, *ANY])
async def test_no_password_is_that_of_somebody_who_is_not_there(hasher: PasswordHasher, password: str) -> None:
    assert not await hasher.verify(password, None)


@pytest.mark.parametrize("hashed", ["", "plain", "$2b$12$abc", "$argon2id$v=19$m=47104,t=1,p=1$broken"])
async def test_a_hash_that_cannot_be_read_is_nobodys_and_outdated(hasher: PasswordHasher, hashed: str) -> None:
    assert not await hasher.verify(PASSWORD, hashed)
    assert hasher.is_outdated(hashed)


async def test_a_hash_is_not_outdated_when_it_is_made(hasher: PasswordHasher) -> None:
    assert not hasher.is_outdated(await hasher.hash(PASSWORD))
