"""Databases of a test's own on the real PostgreSQL."""

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from uuid_utils import uuid4


async def new_database(server: str) -> str:
    """Make an empty database on the server whose URL is given; its URL."""
    name = f"test_{uuid4().hex}"
    await _administer(server, f"CREATE DATABASE {name}")
    return make_url(server).set(database=name).render_as_string(hide_password=False)


async def drop_database(server: str, url: str) -> None:
    """Remove a database, whoever is using it."""
    await _administer(server, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


async def _administer(server: str, statement: str) -> None:
    engine = create_async_engine(
        make_url(server).set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.exec_driver_sql(statement)
    await engine.dispose()
