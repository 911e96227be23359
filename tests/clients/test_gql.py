"""The Python client `gql` over its websockets transport, as the example beside this file uses it."""

import random

import pytest
from gql.transport.exceptions import TransportQueryError

from tests.clients.gql_client import send, watch
from tests.clients.talks import BUDGETS, Talks, small_pieces
from tests.proxy import cutting_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("seed", range(3))
async def test_gql_holds_the_stored_text_after_any_cuts(talks: Talks, seed: int) -> None:
    chance = random.Random(seed)
    reply = talks.model.will_answer(f"gql {seed}", small_pieces(chance))
    reply_id = await send(f"{talks.server.url}/graphql", f"gql {seed}")
    budgets = [chance.randint(1, most) for most in BUDGETS["small"]]
    async with cutting_proxy(talks.server.url, budgets) as proxy:
        async for text in watch(f"{proxy.url}/graphql", reply_id, pause=0):
            reply.seen(len(text))
    assert text == reply.text
    assert proxy.cuts >= 2


async def test_gql_is_told_of_a_refusal(talks: Talks) -> None:
    with pytest.raises(TransportQueryError, match="There is no reply with this id"):
        [text async for text in watch(f"{talks.server.url}/graphql", "msg_absent")]
