"""What the storage contracts run on: an empty database of either kind and a clock that tests set."""

import pytest

from persistence.database import Database
from persistence.unit_of_work import SqlStorage
from tests.contracts.storing import SetClock, Shelf


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def shelf(database: Database, clock: SetClock) -> Shelf:
    return Shelf(SqlStorage(database, clock), database, clock)
