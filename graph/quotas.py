"""What a user may have or use only so much of, as clients see it."""

from datetime import datetime

import strawberry

from domain import errors as domain

MOST = 2**31 - 1
"""GraphQL's largest Int."""


@strawberry.type(description="What a user may have or use only so much of.")
class Quota:
    name: str = strawberry.field(description="SENDS_PER_MINUTE, LIVE_REPLIES, TOKENS_PER_DAY or TOKENS_PER_MONTH.")
    limit: int
    used: int = strawberry.field(description="Of tokens, what live replies may still use is counted as used.")
    resets_at: datetime | None = strawberry.field(
        description="When there is more; null where time alone does not help."
    )

    @classmethod
    def of(cls, value: domain.Quota) -> "Quota":
        return cls(
            name=value.name.value, limit=min(value.limit, MOST), used=min(value.used, MOST), resets_at=value.resets_at
        )
