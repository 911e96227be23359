"""What tools are given in tests: the domain's own context, on whatever storage there is."""

import asyncio
from dataclasses import dataclass
from typing import Any

from domain.accounts import LOCAL_USER_ID, User
from domain.conversations import Conversation
from domain.storage import Storage
from domain.tool_contexts import CallContext, Unfinished
from tertulia.services import SystemClock, TimeOrderedIds
from tests.contracts.storing import BEGINNING, a_conversation

ME = User(LOCAL_USER_ID, None, BEGINNING)


@dataclass(frozen=True)
class NoStorage:
    """For tools that ask for none."""


def context_on(storage: Storage, conversation: Conversation | None = None, user: User = ME) -> CallContext:
    where = conversation or a_conversation()
    return CallContext(user, where, "call_1", SystemClock(), TimeOrderedIds(), Unfinished(storage, asyncio.Semaphore()))


def context() -> CallContext:
    nothing: Any = NoStorage()
    return context_on(nothing)
