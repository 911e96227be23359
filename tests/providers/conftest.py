"""Fixtures for the tests of providers: a scripted endpoint, and a chat model that asks it."""

from collections.abc import AsyncIterator

import pytest

from tests.providers.asking import Asking, asking
from tests.providers.endpoint import ScriptedEndpoint, scripted_endpoint


@pytest.fixture
async def endpoint() -> AsyncIterator[ScriptedEndpoint]:
    async with scripted_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def chat(endpoint: ScriptedEndpoint) -> AsyncIterator[Asking]:
    async with asking(endpoint) as chat:
        yield chat
