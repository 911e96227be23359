"""Password hashing by Argon2id, in two threads and with a short queue. Knows nothing of users, e-mails or tries."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from secrets import token_urlsafe
from threading import BoundedSemaphore
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from domain.errors import Unavailable

MEMORY_KIB = 46 * 1024
"""With one pass and one lane: the first choice of OWASP's Password Storage Cheat Sheet."""
THREADS = 2
WAITING = 32
T = TypeVar("T")


class Argon2Hasher:
    """A PasswordHasher. Two hashes are made at a time, in 92 MiB; `aclose` waits for those that are begun."""

    def __init__(self) -> None:
        self._argon2 = argon2.PasswordHasher(time_cost=1, memory_cost=MEMORY_KIB, parallelism=1)
        self._dummy = self._argon2.hash(token_urlsafe())
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._places = BoundedSemaphore(THREADS + WAITING)

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._argon2.hash(_encoded(password)))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Raises Unavailable as `hash` does. A stored hash that cannot be read is nobody's, and takes as long."""
        return await self._run(lambda: self._verify(_encoded(password), hashed))

    def is_outdated(self, hashed: str) -> bool:
        try:
            return self._argon2.check_needs_rehash(hashed)
        except InvalidHashError:
            return True

    async def aclose(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    def _verify(self, password: bytes, hashed: str | None) -> bool:
        try:
            matches = self._argon2.verify(self._dummy if hashed is None else hashed, password)
            return matches and hashed is not None
        except VerifyMismatchError:
            return False
        except (VerificationError, ValueError):
            return self._verify(password, None)

    async def _run(self, work: Callable[[], T]) -> T:
        """The place is given back when the thread is done, which may be after the caller has gone."""
        if not self._places.acquire(blocking=False):
            raise Unavailable("Too many passwords are being checked right now; try again in a moment.")
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)


def _encoded(password: str) -> bytes:
    """Any text has bytes of its own, half a surrogate pair too: whether it may be a password is decided elsewhere."""
    return password.encode(errors="surrogatepass")
