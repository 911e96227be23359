"""What operators do with accounts, on real SQLite."""

import pytest

from domain.account_service import AccountPolicy
from domain.accounts import LOCAL_USER_ID, AuthMethod
from domain.conversations import PageRequest
from domain.errors import (
    EmailTaken,
    InvalidInput,
    NotFound,
)
from domain.inputs import SendMessage
from tests.domain.people import EMAIL, HERE, OTHER, PASSWORD, Accounts
from tests.patience import PATIENCE_SECONDS

# ── operators ──


async def test_an_operator_makes_users_although_registration_is_closed(accounts: Accounts) -> None:
    user = await accounts.administration.create_user(" Ada@example.org", PASSWORD, None)
    closed = accounts.under(AccountPolicy(AuthMethod.PASSWORD))
    assert (await closed.login(EMAIL, PASSWORD, HERE)).user == user
    with pytest.raises(EmailTaken):
        await accounts.administration.create_user(EMAIL, PASSWORD, None)
    with pytest.raises(InvalidInput):
        await accounts.administration.create_user("grace@example.org", "short", None)
    listed = await accounts.administration.page(None, 10)
    assert [listed_user.id for listed_user in listed] == [LOCAL_USER_ID, user.id]
    assert await accounts.administration.page(LOCAL_USER_ID, 1) == [user]


async def test_adopted_conversations_are_their_new_users_alone(accounts: Accounts) -> None:
    services = accounts.running.services
    sent = await services.replies.send_message(LOCAL_USER_ID, SendMessage("Hi"))
    await services.stream.settled(sent.reply_id, PATIENCE_SECONDS)
    user = (await accounts.register()).user
    assert await accounts.administration.adopt(LOCAL_USER_ID, " ADA@example.org") == (user, 1)
    assert await accounts.administration.adopt(LOCAL_USER_ID, user.id) == (user, 0)
    assert len((await services.conversations.page(user.id, PageRequest(10))).items) == 1
    assert (await services.conversations.page(LOCAL_USER_ID, PageRequest(10))).items == ()
    with pytest.raises(NotFound):
        await services.conversations.message(LOCAL_USER_ID, sent.reply_id)


@pytest.mark.parametrize("known_as", ["nobody@example.org", "user_1", ""])
async def test_an_operator_who_names_nobody_is_told_so(accounts: Accounts, known_as: str) -> None:
    with pytest.raises(InvalidInput, match=f"There is no user '{known_as}'"):
        await accounts.administration.adopt(LOCAL_USER_ID, known_as)
    with pytest.raises(InvalidInput):
        await accounts.administration.set_password(known_as, OTHER)
