"""The stage on which attackers meet their victim, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from domain.replies import FinishReason
from persistence import schema
from persistence.database import Database
from persistence.unit_of_work import SqlStorage
from tertulia.services import SystemClock
from tests.doubles import ScriptedModel, answer
from tests.letters import PostOffice
from tests.security.people import FRIEND, Person, guarded, own_database, register
from tests.security.resolvers import Resolved, noted_resolvers
from tests.security.services import EMAIL, OLD, administration
from tests.security.stage import SECRET, LetterWriter, Stage, world_of
from tests.security.tokens import SECRET_KEY
from tests.serving import Serving


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("ownership")
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    model, gate = LetterWriter(), asyncio.Event()
    short = answer("Well", "...", reason=FinishReason.LENGTH)
    model.play(short, [*short[:2], gate, *short[2:]], short)
    toolbox = PostOffice().toolbox()
    async with (
        own_database(request.param, folder, postgres) as database,
        guarded(folder, model, toolbox=toolbox, **database) as server,
    ):
        victim = await register(server, "victim")
        yield Stage(server, victim, await world_of(victim, SECRET, live=True))
        gate.set()


@pytest_asyncio.fixture(loop_scope="module")
async def attacker(stage: Stage) -> Person:
    return await register(stage.server, "attacker")


@pytest.fixture(scope="module")
def resolvers() -> Iterator[Resolved]:
    with noted_resolvers() as noted:
        yield noted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guard(tmp_path_factory: pytest.TempPathFactory, resolvers: Resolved) -> AsyncIterator[Serving]:
    """A server on which every reply says one word and stays live."""
    gate, whole = asyncio.Event(), answer("Well", "...")
    model = ScriptedModel([*whole[:2], gate, *whole[2:]])
    folder = tmp_path_factory.mktemp("guarded")
    async with guarded(folder, model, secret_key=SECRET_KEY, allowed_origins=(FRIEND,)) as running:
        yield running
        gate.set()


@pytest_asyncio.fixture(loop_scope="module")
async def resolved(guard: Serving, resolvers: Resolved) -> Resolved:
    """What is resolved from the beginning of the test on."""
    resolvers.forget()
    return resolvers


@pytest.fixture(params=["sqlite", "postgresql"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStorage]:
    """With one user."""
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    async with own_database(request.param, tmp_path, postgres) as settings:
        database = Database(settings["database_url"])
        await schema.upgrade(database)
        made = SqlStorage(database, SystemClock())
        await administration(made).create_user(EMAIL, OLD, None)
        yield made
        await database.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Schemathesis names its tests after fields, but pytest drops that from their ids; xdist runs one of each id."""
    for item in items:
        if field := getattr(item, "operation_label", None):
            item._id = item.id.with_params(field)
