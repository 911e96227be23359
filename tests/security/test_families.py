"""The law of refresh tokens, tried by any order of what people, thieves and time do, on the domain's own services.

After a token that is older than the grace was used again nothing of its family works; what happens to one family
touches no other.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from domain.account_service import AccountPolicy, AccountService, SignedIn
from domain.accounts import REFRESH_GRACE, AuthMethod, Identity
from domain.authentication import Authenticator
from domain.errors import SessionExpired
from persistence import schema
from persistence.database import Database
from persistence.notifier import LocalNotifier
from persistence.unit_of_work import SqlStorage
from tertulia.services import TimeOrderedIds
from tertulia.tokens import AccessTokens
from tests.contracts.storing import SetClock
from tests.doubles import QuickHasher
from tests.security.services import HERE

PASSWORD = "correct horse battery"
EMAILS = ("ada@example.org", "bob@example.org")
GRACE = REFRESH_GRACE.total_seconds()


@dataclass(eq=False)
class Family:
    """What the law knows of a session."""

    email: str
    session_id: str
    alive: bool = True
    used: dict[str, datetime | None] = field(default_factory=dict)
    identities: set[Identity] = field(default_factory=set)


class Families(RuleBasedStateMachine):
    folder: ClassVar[Path]
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = SetClock()
        self.clock.at = datetime.now(UTC)
        self.families: list[Family] = []
        self.runner.run(self.open())

    async def open(self) -> None:
        file = self.folder / "families.db"
        file.unlink(missing_ok=True)
        self.database = Database(f"sqlite:///{file}")
        await schema.upgrade(self.database)
        storage, ids = SqlStorage(self.database, self.clock), TimeOrderedIds()
        tokens = AccessTokens("a secret that is long enough for a key", self.clock)
        policy = AccountPolicy(AuthMethod.PASSWORD, registration_open=True)
        self.accounts = AccountService(storage, LocalNotifier(), QuickHasher(), tokens, self.clock, ids, policy)
        self.authenticator = Authenticator(storage, self.clock, ids, tokens)
        for email in EMAILS:
            await self.accounts.register(email, PASSWORD, None, HERE)

    def teardown(self) -> None:
        self.runner.run(self.database.close())
        self.runner.close()

    def begun(self, email: str, signed_in: SignedIn) -> str:
        self.families.append(Family(email, signed_in.session_id))
        return self.given(self.families[-1], signed_in)

    def given(self, family: Family, signed_in: SignedIn) -> str:
        assert signed_in.session_id == family.session_id
        family.used[signed_in.refresh_token] = None
        family.identities.add(self.runner.run(self.authenticator.identify(signed_in.access_token)))
        return signed_in.refresh_token

    def family_of(self, token: str) -> Family:
        return next(family for family in self.families if token in family.used)

    def used_tokens(self) -> list[str]:
        """Those of living families."""
        return [token for family in self.families if family.alive for token, at in family.used.items() if at]

    def end(self, email: str) -> None:
        for family in self.families:
            family.alive = family.alive and family.email != email

    @rule(target=tokens, email=st.sampled_from(EMAILS))
    def log_in(self, email: str) -> str:
        return self.begun(email, self.runner.run(self.accounts.login(email, PASSWORD, HERE)))

    @rule(target=tokens, token=tokens)
    def refresh_any(self, token: str) -> str:
        return self.refresh(token)

    def refresh(self, token: str) -> str:
        family, now = self.family_of(token), self.clock.now()
        first = family.used[token]
        stolen = first is not None and (now - first).total_seconds() > GRACE
        try:
            signed_in = self.runner.run(self.accounts.refresh(token, HERE))
        except SessionExpired:
            assert stolen or not family.alive
            family.alive = False
            return token
        assert family.alive
        assert not stolen
        family.used[token] = first or now
        return self.given(family, signed_in)

    @precondition(lambda self: self.used_tokens())
    @rule(target=tokens, data=st.data(), seconds=st.sampled_from([0, 1, 9, 11, 60]))
    def refresh_again(self, data: st.DataObject, seconds: float) -> str:
        """What a second tab does, or a thief."""
        self.clock.later(seconds)
        return self.refresh(data.draw(st.sampled_from(self.used_tokens())))

    @rule(seconds=st.sampled_from([1, 5, 9.999, 10, 10.001, 60]))
    def wait(self, seconds: float) -> None:
        self.clock.later(seconds)

    @rule(token=tokens, everywhere=st.booleans())
    def log_out(self, token: str, everywhere: bool) -> None:
        family = self.family_of(token)
        self.runner.run(self.accounts.logout(None, token, everywhere=everywhere))
        if everywhere and family.alive:
            self.end(family.email)
        family.alive = False

    @rule(target=tokens, token=tokens)
    def change_password(self, token: str) -> str:
        family = self.family_of(token)
        identity = next(iter(family.identities))
        changing = self.accounts.change_password(identity, PASSWORD, PASSWORD, HERE)
        signed_in = self.runner.run(changing)
        self.end(family.email)
        return self.begun(family.email, signed_in)

    @invariant()
    def exactly_the_living_hold(self) -> None:
        every = {identity for family in self.families for identity in family.identities}
        living = {identity for family in self.families if family.alive for identity in family.identities}
        now = self.clock.now()
        current = {each for each in living if each.expires_at is not None and each.expires_at > now}
        assert self.runner.run(self.authenticator.valid(every)) == current


def test_a_family_ends_with_a_token_that_was_used_before_and_alone(tmp_path: Path) -> None:
    unshrunk = (Phase.reuse, Phase.generate)  # a step asks a real database: to shrink many takes minutes
    bounds = settings(max_examples=20, stateful_step_count=25, deadline=None, phases=unshrunk)

    class Here(Families):
        folder = tmp_path

    run_state_machine_as_test(Here, settings=bounds)
