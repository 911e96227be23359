"""What each user may have and use: sends a minute, live replies, tokens a day and a month.

Exact over any number of processes: who sends, or lets a reply spend more, holds the counter of the user's sends until
the commit, and asks with one statement what is used and reserved. A reply reserves all that it may spend, and its end
turns the reservation into what it did spend. Without accounts there are no limits, and nothing here costs anything.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from domain.account_storage import Use
from domain.accounts import LOCAL_USER_ID
from domain.errors import Quota, QuotaExceeded, QuotaName, RateLimited
from domain.ports import TokenCounter
from domain.prompting import count_tokens
from domain.replies import Lease
from domain.storage import Storage, UnitOfWork

MINUTE = timedelta(minutes=1)
OVERRUN = 1.5
"""An answer may be so many times as long as was asked for, by our count: an endpoint's own may be that far from it."""
LEAST_COUNTED = 256
"""Bytes of an answer that are worth counting."""


@dataclass(frozen=True, slots=True)
class UserLimits:
    """Of each user with an account; None means without limit."""

    sends_per_minute: int | None = None
    live_replies: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    @property
    def on_tokens(self) -> bool:
        return self.tokens_per_day is not None or self.tokens_per_month is not None


class Allowances:
    def __init__(self, storage: Storage, limits: UserLimits) -> None:
        self._storage = storage
        self._limits = limits

    def limits_tokens_of(self, user_id: str) -> bool:
        return self._limits.on_tokens and user_id != LOCAL_USER_ID

    async def count_send(self, work: UnitOfWork, user_id: str) -> None:
        """Count a command that queues a reply or begins a conversation, and hold the user's sends until the unit ends.

        Raises RateLimited, and then the unit must store nothing.
        """
        if user_id == LOCAL_USER_ID or self._limits == UserLimits():
            return
        if self._limits.sends_per_minute is None:
            await work.rates.hold(_sends(user_id))
            return
        wait = await work.rates.hit(_sends(user_id), self._limits.sends_per_minute, MINUTE)
        if wait is not None:
            raise RateLimited("messages in a minute", wait)

    async def reserve(self, work: UnitOfWork, user_id: str, tokens: int) -> int:
        """What a reply that may spend so many has to reserve. The unit holds the user's sends.

        Raises QuotaExceeded, and then the unit must store nothing.
        """
        live = self._limits.live_replies
        if user_id == LOCAL_USER_ID or (live is None and not self._limits.on_tokens):
            return 0
        use = await work.budgets.use(user_id)
        if live is not None and use.live >= live:
            message = f"{use.live} of your replies are being made, and {live} may be; wait for one to end, or stop it."
            raise QuotaExceeded(message, Quota(QuotaName.LIVE_REPLIES, live, use.live, None))
        self._check(use, tokens)
        return tokens if self._limits.on_tokens else 0

    async def extend(self, work: UnitOfWork, lease: Lease, tokens: int) -> bool:
        """Let a reply that is being made spend so many in all. False when the lease was lost.

        Raises QuotaExceeded, and then the reservation is what it was.
        """
        await work.rates.hold(_sends(lease.user_id))
        self._check(await work.budgets.use(lease.user_id, without=lease.reply_id), tokens)
        return await work.budgets.reserve(lease, tokens)

    async def quotas(self, user_id: str) -> list[Quota]:
        """The user's, each with what is used of it now; none without a limit."""
        if user_id == LOCAL_USER_ID or self._limits == UserLimits():
            return []
        async with self._storage.read() as work:
            sends, next_at = await work.rates.count(_sends(user_id), MINUTE)
            use = await work.budgets.use(user_id)
        found = []
        if self._limits.sends_per_minute is not None:
            found.append(Quota(QuotaName.SENDS_PER_MINUTE, self._limits.sends_per_minute, sends, next_at))
        if self._limits.live_replies is not None:
            found.append(Quota(QuotaName.LIVE_REPLIES, self._limits.live_replies, use.live, None))
        return found + self._of_tokens(use)

    def _of_tokens(self, use: Use) -> list[Quota]:
        limits = self._limits
        found = []
        if limits.tokens_per_day is not None:
            used, end = use.tokens_today + use.reserved, _midnight(use.today + timedelta(days=1))
            found.append(Quota(QuotaName.TOKENS_PER_DAY, limits.tokens_per_day, used, end))
        if limits.tokens_per_month is not None:
            used, end = use.tokens_this_month + use.reserved, _midnight(_next_month(use.today))
            found.append(Quota(QuotaName.TOKENS_PER_MONTH, limits.tokens_per_month, used, end))
        return found

    def _check(self, use: Use, tokens: int) -> None:
        """Of several that are used up, the one that is so for longest is told."""
        exceeded = [quota for quota in self._of_tokens(use) if quota.used + tokens > quota.limit]
        for quota in exceeded:
            if tokens > quota.limit:
                raise _never(quota, tokens)
        if exceeded:
            raise _not_now(exceeded[-1], tokens)


class OutputBound:
    """Tells when an answer is far longer than it may be: some endpoints do not heed `max_tokens`.

    No text has more tokens than bytes, so it counts only when so many bytes have come as there are tokens left.
    """

    def __init__(self, tokens: TokenCounter, model: str, most: int) -> None:
        self._tokens = tokens
        self._model = model
        self._left = int(OVERRUN * most)
        self._uncounted: list[str] = []
        self._room = self._left

    async def passed(self, text: str) -> bool:
        """Whether it is so with this piece more."""
        self._uncounted.append(text)
        self._room -= len(text.encode())
        if self._room >= 0:
            return False
        self._left -= await count_tokens(self._tokens, self._model, "".join(self._uncounted))
        self._uncounted.clear()
        self._room = max(LEAST_COUNTED, self._left)
        return self._left < 0


def _sends(user_id: str) -> str:
    return f"send:{user_id}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


def _span(quota: Quota) -> str:
    return "a day" if quota.name is QuotaName.TOKENS_PER_DAY else "a month"


def _never(quota: Quota, tokens: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"This reply may need {tokens} tokens, and you have {quota.limit} {_span(quota)}. Ask for fewer `maxTokens`, "
        "shorten the message, or begin a new conversation.",
        Quota(quota.name, quota.limit, quota.used, None),
    )


def _not_now(quota: Quota, tokens: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"This reply may need {tokens} tokens, but of your {quota.limit} {_span(quota)} {quota.used} are used or "
        f"reserved. There are new ones on {quota.resets_at:%d %B %Y, %H:%M} UTC.",
        quota,
    )
