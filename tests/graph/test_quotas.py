"""Limits of a user, as clients see them."""

from datetime import UTC, datetime

from domain.errors import Quota, QuotaExceeded, QuotaName, RateLimited
from graph.errors import QuotaExceededError, RateLimitedError, user_error
from graph.quotas import MOST
from tests.serving import Serving

LATER = datetime(2026, 12, 1, tzinfo=UTC)


async def test_without_accounts_nobody_has_a_quota(server: Serving) -> None:
    assert await server.ask("{ viewer { quotas { name limit used resetsAt } } }") == {"viewer": {"quotas": []}}


def test_too_often_says_in_how_many_milliseconds_to_come_back() -> None:
    error = user_error(RateLimited("messages", 1.2341))
    assert isinstance(error, RateLimitedError)
    assert (error.code, error.retry_after_ms, error.message) == (
        "RATE_LIMITED",
        1_235,
        "Too many messages; try again in 2 s.",
    )


def test_a_limit_that_is_reached_says_which_and_until_when() -> None:
    error = user_error(QuotaExceeded("No more.", Quota(QuotaName.TOKENS_PER_MONTH, 100, 90, LATER)))
    assert isinstance(error, QuotaExceededError)
    quota = error.quota
    assert (error.code, quota.name, quota.limit, quota.used) == ("QUOTA_EXCEEDED", "TOKENS_PER_MONTH", 100, 90)
    assert quota.resets_at == LATER


def test_more_used_than_an_int_holds_is_told_as_the_largest() -> None:
    error = user_error(QuotaExceeded("No more.", Quota(QuotaName.TOKENS_PER_MONTH, 100, 2 * MOST, LATER)))
    assert isinstance(error, QuotaExceededError)
    assert error.quota.used == MOST
