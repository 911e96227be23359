"""What becomes of units of work when PostgreSQL hangs up, falls silent, or comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from domain.errors import DataRefused, StorageError
from persistence.database import Database
from tests.contracts.storing import only_postgresql

pytestmark = only_postgresql

OWN_PID = text("SELECT pg_backend_pid()")
HANG_UP = text("SELECT pg_terminate_backend(:pid, 30000)")
HANG_UP_ALL = text(
    "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
SLEEP = text("SELECT pg_sleep(30)")
TOO_LONG = 2.0
"""Seconds: what is to succeed all the same has so long on a machine that stalls."""


@asynccontextmanager
async def second(database: Database, url: URL | None = None, **limits: float) -> AsyncIterator[Database]:
    """The same database with connections of its own."""
    own = (url or database.url).render_as_string(hide_password=False)
    made = Database(own, pool_size=1, pool_seconds=0.1, **limits)
    try:
        yield made
    finally:
        await made.close()


async def own_pid(database: Database, *, writing: bool = False) -> int:
    async with database.connect(writing=writing) as connection:
        return int((await connection.execute(OWN_PID)).scalar_one())


async def hang_up(database: Database, pid: int) -> None:
    async with database.connect(writing=True) as connection:
        assert (await connection.execute(HANG_UP, {"pid": pid})).scalar_one()


@asynccontextmanager
async def wire(url: URL) -> AsyncIterator[tuple[URL, asyncio.Event]]:
    """The same server at the end of a wire that carries bytes only while the event is set, and never hangs up."""
    carrying, pumps = asyncio.Event(), set[asyncio.Task[None]]()
    carrying.set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await carrying.wait()
            sink.write(data)
        sink.close()

    async def join(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        far_source, far_sink = await _connected(url)
        pumps.update(asyncio.create_task(pump(*pair)) for pair in ((source, far_sink), (far_source, sink)))

    listener = await asyncio.start_server(join, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    yield url.set(host="127.0.0.1", port=port, query={}), carrying
    listener.close()
    for task in pumps:
        task.cancel()


async def _connected(url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = str(url.query.get("host") or url.host), url.port or 5432
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


@pytest.mark.parametrize("writing", [True, False])
async def test_a_connection_that_dies_in_the_middle_is_a_storage_error_and_later_units_work(
    database: Database, writing: bool
) -> None:
    async def unit(own: Database) -> None:
        async with own.connect(writing=writing) as connection:
            await hang_up(database, (await connection.execute(OWN_PID)).scalar_one())
            await connection.execute(OWN_PID)

    async with second(database) as own:
        with pytest.raises(StorageError) as raised:
            await unit(own)
        assert not isinstance(raised.value, DataRefused)
        assert await own_pid(own, writing=writing)


async def test_a_connection_that_dies_before_its_commit_is_a_storage_error(database: Database) -> None:
    async def unit(own: Database) -> None:
        async with own.connect(writing=True) as connection:
            await hang_up(database, (await connection.execute(OWN_PID)).scalar_one())
            await connection.commit()

    async with second(database) as own:
        with pytest.raises(StorageError):
            await unit(own)
        assert await own_pid(own)


async def test_a_connection_that_dies_at_the_end_of_its_unit_is_not_lost_to_the_pool(database: Database) -> None:
    async with second(database) as own:
        for _ in range(3):
            async with own.connect(writing=False) as connection:
                await hang_up(database, (await connection.execute(OWN_PID)).scalar_one())
        assert await own_pid(own)


async def test_connections_that_died_while_nobody_used_them_are_replaced_unnoticed(database: Database) -> None:
    async with second(database) as own:
        before = await own_pid(own)
        async with database.connect(writing=True) as connection:
            await connection.execute(HANG_UP_ALL)
        assert await own_pid(own) != before


async def test_a_statement_that_takes_too_long_is_a_storage_error_and_later_units_work(database: Database) -> None:
    async def unit(own: Database) -> None:
        async with own.connect(writing=True) as connection:
            await connection.execute(SLEEP)

    async with second(database, statement_seconds=TOO_LONG) as own:
        with pytest.raises(StorageError):
            await unit(own)
        assert await own_pid(own)


async def test_a_server_that_falls_silent_holds_nobody_up_for_long_and_may_come_back(database: Database) -> None:
    async def unit(own: Database) -> None:
        async with own.connect(writing=True) as connection:
            await connection.execute(OWN_PID)
            carrying.clear()
            await connection.commit()

    async with wire(database.url) as (url, carrying), second(database, url, statement_seconds=TOO_LONG) as own:
        async with asyncio.timeout(60):
            with pytest.raises(StorageError):
                await unit(own)
        carrying.set()
        assert await own_pid(own)


async def test_a_cancelled_task_does_not_wait_for_a_silent_server(database: Database) -> None:
    async def unit(own: Database) -> None:
        async with own.connect(writing=True) as connection:
            await connection.execute(OWN_PID)
            carrying.clear()
            cut.set()
            await connection.execute(OWN_PID)

    cut = asyncio.Event()
    async with wire(database.url) as (url, carrying), second(database, url, statement_seconds=20) as own:
        task = asyncio.create_task(unit(own))
        await cut.wait()
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()
        carrying.set()


async def test_a_migration_may_take_as_long_as_it_needs(database: Database) -> None:
    async with second(database, statement_seconds=0.01) as own, own.migrating() as connection:
        await connection.execute(text("SELECT pg_sleep(0.05)"))
