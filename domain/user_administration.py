"""What those who run a server do with its accounts: make users, list them, set passwords, hand conversations over.

Nobody is asked for a password, and no policy on registration holds here: whoever calls this owns the database.
"""

from collections.abc import Sequence

from domain.account_service import tries_of
from domain.accounts import User, check_password, new_user, normalised_email, normalised_password
from domain.errors import EmailTaken, InvalidInput
from domain.ports import Clock, Ids, Notifier, PasswordHasher
from domain.storage import Storage
from domain.topics import user_topic


class UserAdministration:
    def __init__(self, storage: Storage, notifier: Notifier, hasher: PasswordHasher, clock: Clock, ids: Ids) -> None:
        self._storage = storage
        self._notifier = notifier
        self._hasher = hasher
        self._clock = clock
        self._ids = ids

    async def create_user(self, email: str, password: str, name: str | None) -> User:
        """Raises EmailTaken."""
        user, password = new_user(self._ids.new("user"), email, password, name, self._clock.now())
        hashed = await self._hasher.hash(password)
        async with self._storage.write() as work:
            if not await work.users.add(user, hashed):
                raise EmailTaken
            await work.commit()
        return user

    async def page(self, after: str | None, limit: int) -> Sequence[User]:
        """In the order of their creation, those after the id."""
        async with self._storage.read() as work:
            return await work.users.page(after, limit)

    async def set_password(self, email: str, password: str) -> User:
        """End every session of the user, and the lock after too many tries. Raises InvalidInput for unknown users."""
        email, password = normalised_email(email), normalised_password(password)
        check_password(password, email, "password")
        hashed = await self._hasher.hash(password)
        async with self._storage.write() as work:
            await work.rates.reset(tries_of(email))
            account = await work.users.by_email(email)
            if account is None:
                raise _unknown(email)
            await work.users.set_password(account.user.id, hashed)
            await work.sessions.revoke_all(account.user.id)
            await work.commit()
        return account.user

    async def adopt(self, from_user_id: str, to: str) -> tuple[User, int]:
        """Give a user, named by address or id, all conversations of another: who they are, and how many it were.

        Raises InvalidInput for unknown users.
        """
        async with self._storage.write() as work:
            account = await (work.users.by_email(normalised_email(to)) if "@" in to else work.users.account(to))
            if account is None:
                raise _unknown(to)
            given = await work.conversations.give(from_user_id, account.user.id)
            await work.commit()
        self._notifier.ring(user_topic(from_user_id), user_topic(account.user.id))
        return account.user, given


def _unknown(known_as: str) -> InvalidInput:
    return InvalidInput(f"There is no user {known_as!r}; `tertulia user list` shows all.")
