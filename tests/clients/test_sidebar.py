"""A sidebar in Apollo's cache shows what other tabs do, also when its connection is cut."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.clients.scripts import Scripts
from tests.clients.talks import Talks
from tests.proxy import cutting_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
CREATE = "mutation ($title: String!) { createConversation(input: {title: $title}) { conversation { id } } }"
RENAME = """mutation ($id: ID!, $title: String!) {
  renameConversation(input: {conversationId: $id, title: $title}) { errors { message } } }"""
DELETE = "mutation ($id: ID!) { deleteConversation(input: {conversationId: $id}) { deletedId } }"


async def until_shown(lines: AsyncIterator[Any], *titles: str) -> None:
    async for line in lines:
        if sorted(line["titles"]) == sorted(titles):
            return
    raise AssertionError(f"the script ended before it showed {titles}")


@pytest.mark.parametrize("way", ["sockets", "multipart"])
@pytest.mark.parametrize("cuts", [0, 12])
async def test_a_sidebar_shows_what_other_tabs_do(talks: Talks, scripts: Scripts, way: str, cuts: int) -> None:
    server, chance = talks.server, random.Random(f"{way} {cuts}")
    async with (
        cutting_proxy(server.url, [chance.randint(300, 3_000) for _ in range(cuts)]) as proxy,
        scripts.running("sidebar-titles.mjs", f"{proxy.url}/graphql", way) as lines,
    ):
        await until_shown(lines)
        ids = [(await server.ask(CREATE, title=title))["createConversation"]["conversation"]["id"] for title in "ABC"]
        await until_shown(lines, "A", "B", "C")
        await server.ask(RENAME, id=ids[0], title="Mornings")
        await until_shown(lines, "Mornings", "B", "C")
        for conversation_id in ids:
            await server.ask(DELETE, id=conversation_id)
        await until_shown(lines)
