"""A whole server without HTTP: real SQLite, a scripted model, and a counter that counts words."""

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from domain.accounts import LOCAL_USER_ID
from domain.conversations import Message
from domain.inputs import SendMessage
from domain.reply_service import Sent
from domain.streaming import StreamedEvent
from persistence import schema
from persistence.database import Database
from tertulia.services import Running, open_services
from tests.domain.door import ADA, Door
from tests.domain.people import Accounts, accounts_in
from tests.doubles import ScriptedModel, Step, WordCounter, answer, calling
from tests.patience import PATIENCE_SECONDS
from tests.postgres import drop_database, new_database
from tests.serving import settings_for
from tests.toolbox import StubTool, StubToolbox

ME = LOCAL_USER_ID
LOOK, SUNNY = calling(("look", '{"city": "Paris"}')), answer("Sunny.")
Scripts = Sequence[Sequence[Step]]
Opening = Callable[..., AbstractAsyncContextManager["Talk"]]


@dataclass
class Talk:
    """Short ways to what a test does most."""

    running: Running
    model: ScriptedModel
    sent: list[Sent] = field(default_factory=list)

    async def send(self, text: str = "Hi", **fields: Any) -> Sent:
        sent = await self.running.services.replies.send_message(ME, SendMessage(text, **fields))
        self.sent.append(sent)
        return sent

    async def say(self, text: str = "Hi", **fields: Any) -> Message:
        """Send and wait for the whole reply."""
        sent = await self.send(text, **fields)
        return await self.settled(sent.reply_id)

    async def settled(self, reply_id: str) -> Message:
        await self.running.services.stream.settled(reply_id, PATIENCE_SECONDS)
        return await self.message(reply_id)

    async def message(self, message_id: str) -> Message:
        return await self.running.services.conversations.message(ME, message_id)

    async def watch(self, reply_id: str, after: str | None = None) -> list[StreamedEvent]:
        """Every event until the terminal one."""
        stream = await self.running.services.stream.follow(ME, reply_id, after)
        return [event async for event in stream]


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(answer("Hello", " there", "."))


@pytest.fixture
async def talk(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Talk]:
    async with open_services(settings_for(tmp_path), model=model, tokens=WordCounter()) as running:
        yield Talk(running, model)


@pytest.fixture
def opening(tmp_path: Path) -> Opening:
    @asynccontextmanager
    async def opened(*tools: StubTool, scripts: Scripts = (LOOK, SUNNY)) -> AsyncIterator[Talk]:
        model, toolbox = ScriptedModel(*scripts), StubToolbox(*tools)
        settings = settings_for(tmp_path)
        async with open_services(settings, model=model, tokens=WordCounter(), toolbox=toolbox) as running:
            yield Talk(running, model)

    return opened


@pytest.fixture
async def accounts(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Accounts]:
    async with accounts_in(tmp_path, model) as made:
        yield made


@pytest.fixture(scope="session")
def migrated() -> list[Path]:
    """An empty database, once somebody has made it."""
    return []


async def made_in(folder: Path) -> Path:
    database = Database(f"sqlite:///{folder}/migrated.db")
    await schema.upgrade(database)
    await database.close()
    return folder / "migrated.db"


@pytest.fixture
async def door(tmp_path: Path, migrated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    if not migrated:
        migrated.append(await made_in(tmp_path_factory.mktemp("door")))
    shutil.copy(migrated[0], tmp_path / "door.db")
    database = Database(f"sqlite:///{tmp_path}/door.db")
    made = Door(database)
    async with made.storage.write() as work:
        await work.users.add(ADA, "hash")
        await work.commit()
    yield made
    await database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/test.db"
        return
    server: str = request.getfixturevalue("postgres")
    made = await new_database(server)
    database = Database(made)
    await schema.upgrade(database)
    await database.close()
    yield made
    await drop_database(server, made)
