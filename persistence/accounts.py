"""Users: rows and values."""

from sqlalchemy import select

from domain.accounts import User
from persistence.connection import Connection
from persistence.tables import users


class SqlUsers:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, user_id: str) -> User | None:
        row = (await self._connection.execute(select(users).where(users.c.id == user_id))).one_or_none()
        return None if row is None else User(row.id, row.display_name, row.created_at)
