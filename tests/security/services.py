"""The domain's accounts on a real database, with passwords that cost nothing."""

from domain.account_service import AccountPolicy, AccountService
from domain.accounts import AuthMethod, Client
from domain.storage import Storage
from domain.user_administration import UserAdministration
from persistence.notifier import LocalNotifier
from tertulia.services import SystemClock, TimeOrderedIds
from tertulia.tokens import AccessTokens

HERE = Client("127.0.0.1")
EMAIL, OLD = "ada@example.org", "old password"
TOKENS = AccessTokens("a secret that is long enough for a key", SystemClock())


class PlainHasher:
    """A PasswordHasher that costs nothing, as what is tried here is not passwords."""

    async def hash(self, password: str) -> str:
        return f"plain:{password}"

    async def verify(self, password: str, hashed: str | None) -> bool:
        return hashed == f"plain:{password}"

    def is_outdated(self, hashed: str) -> bool:
        return False


def accounts(storage: Storage, hasher: PlainHasher | None = None) -> AccountService:
    policy = AccountPolicy(AuthMethod.PASSWORD, registration_open=True)
    hasher = hasher or PlainHasher()
    return AccountService(storage, LocalNotifier(), hasher, TOKENS, SystemClock(), TimeOrderedIds(), policy)


def administration(storage: Storage) -> UserAdministration:
    return UserAdministration(storage, LocalNotifier(), PlainHasher(), SystemClock(), TimeOrderedIds())
