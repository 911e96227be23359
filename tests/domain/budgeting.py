"""A user with an account, and a server on real SQLite whose only limits are those that a test gives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import insert

from domain.account_storage import Use
from domain.conversations import Message
from domain.inputs import SendMessage
from domain.prompting import PRIMING
from domain.reply_service import Sent
from persistence.tables import users
from tertulia.services import Running, open_services
from tests.doubles import ScriptedModel, WordCounter
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings_for

ANN = "user_ann"
SYSTEM, QUESTION, OVERHEADS, ANSWER = 9, 1, 8, 50
NEED = SYSTEM + QUESTION + OVERHEADS + PRIMING + ANSWER
"""Of "Hi", alone in its conversation."""
NOTHING = {"sends_per_minute": 0, "max_live_replies_per_user": 0, "tokens_per_day": 0, "tokens_per_month": 0}


class Waiting(asyncio.Event):
    """An event of a script that tells when the script has come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.reached.set()
        return await super().wait()


class Ann:
    """A user with an account, and a server without any other limit than the given ones."""

    def __init__(self, running: Running, model: ScriptedModel) -> None:
        self.running = running
        self.model = model
        self.replies = running.services.replies

    async def send(self, text: str = "Hi", **fields: Any) -> Sent:
        return await self.replies.send_message(ANN, SendMessage(text, **fields))

    async def settled(self, reply_id: str) -> Message:
        await self.running.services.stream.settled(reply_id, PATIENCE_SECONDS)
        return await self.running.services.conversations.message(ANN, reply_id)

    async def say(self, text: str = "Hi", **fields: Any) -> Message:
        return await self.settled((await self.send(text, **fields)).reply_id)

    async def shows(self, reply_id: str, text: str) -> None:
        """Return when the reply shows the text."""
        stream = await self.running.services.stream.follow(ANN, reply_id, None)
        async for _ in stream:
            if (await self.running.services.conversations.message(ANN, reply_id)).text == text:
                break
        await stream.aclose()

    async def use(self) -> Use:
        async with self.running.storage.read() as work:
            return await work.budgets.use(ANN)

    async def used(self) -> int:
        """Tokens that are spent; nothing is reserved."""
        use = await self.use()
        assert (use.live, use.reserved) == (0, 0)
        return use.tokens_today

    async def messages(self) -> int:
        return await self.running.services.conversations.count(ANN)


@asynccontextmanager
async def serving_ann(folder: Path, model: ScriptedModel, **limits: int) -> AsyncIterator[Ann]:
    settings = settings_for(folder, **(NOTHING | {"max_tokens": ANSWER} | limits))
    async with open_services(settings, model=model, tokens=WordCounter()) as running:
        async with running.database.connect(writing=True) as connection:
            now = running.services.conversations._clock.now()
            await connection.execute(insert(users).values(id=ANN, created_at=now))
            await connection.commit()
        yield Ann(running, model)
