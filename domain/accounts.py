"""Who is asking. Without accounts there is one local user, made by the first migration."""

from dataclasses import dataclass
from datetime import datetime

LOCAL_USER_ID = "user_00000000000070008000000000000000"


def user_topic(user_id: str) -> str:
    """The bell of everything that happens to a user's conversations."""
    return f"user:{user_id}"


@dataclass(frozen=True, slots=True)
class User:
    id: str
    display_name: str | None
    created_at: datetime
