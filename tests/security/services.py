"""The domain's accounts on a real database, with passwords that cost nothing."""

from domain.account_service import AccountPolicy, AccountService
from domain.accounts import AuthMethod, Client
from domain.ports import PasswordHasher
from domain.storage import Storage
from domain.user_administration import UserAdministration
from persistence.notifier import LocalNotifier
from tertulia.services import SystemClock, TimeOrderedIds
from tertulia.tokens import AccessTokens
from tests.doubles import QuickHasher

HERE = Client("127.0.0.1")
EMAIL, OLD = "ada@example.org", "old password"
TOKENS = AccessTokens("a secret that is long enough for a key", SystemClock())


def accounts(storage: Storage, hasher: PasswordHasher | None = None) -> AccountService:
    policy = AccountPolicy(AuthMethod.PASSWORD, registration_open=True)
    hasher = hasher or QuickHasher()
    return AccountService(storage, LocalNotifier(), hasher, TOKENS, SystemClock(), TimeOrderedIds(), policy)


def administration(storage: Storage) -> UserAdministration:
    return UserAdministration(storage, LocalNotifier(), QuickHasher(), SystemClock(), TimeOrderedIds())
