"""The promise of the stream over real connections: cut anywhere, any number of times, the text is byte for byte the
stored one, with a cursor and without, over every transport."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.gated import GatedModel
from tests.graph.readers import Read, Reader, by_multipart, by_socket, by_sse
from tests.proxy import cutting_proxy
from tests.serving import Serving, serving, settings_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEND = "mutation ($text: String!) { sendMessage(input: {text: $text}) { reply { id } } }"
STORED = "query ($id: ID!) { message(id: $id) { text status } }"
NASTY = [*'añ🎉"\\\r\n', "👩", "\u200d", "👧", "\r\n", "\u2028", "e", "\u0301", "\r\n--graphql--\r\n", "\n\ndata: "]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Serving, GatedModel]]:
    model = GatedModel()
    folder: Path = tmp_path_factory.mktemp("cuts")
    async with serving(settings_for(folder), model) as server:
        yield server, model


def pieces_of(chance: random.Random) -> list[str]:
    return ["".join(chance.choices(NASTY, k=chance.randint(1, 60))) for _ in range(chance.randint(4, 8))]


@pytest.mark.parametrize("read", [by_socket, by_sse, by_multipart])
@pytest.mark.parametrize("resumes", [True, False], ids=["resuming", "replacing"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_reply_read_over_cut_connections_is_the_stored_one(
    talk: tuple[Serving, GatedModel], read: Read, resumes: bool, seed: int
) -> None:
    server, model = talk
    chance = random.Random(f"{seed} {read.__name__} {resumes}")
    prompt = f"{seed} {read.__name__} {resumes}"
    reply = model.will_answer(prompt, pieces_of(chance))
    budgets = [chance.randint(1, most) for most in (300, 600, 900, 600, 900, 1_200, 300, 2_000)]
    sent = await server.ask(SEND, text=prompt)
    reader = Reader(read, sent["sendMessage"]["reply"]["id"], resumes=resumes)
    async with cutting_proxy(server.url, budgets) as proxy:
        await reader.follow(proxy.url, reply.seen)
    stored = await server.ask(STORED, id=sent["sendMessage"]["reply"]["id"])
    assert stored["message"] == reader.final == {"text": reply.text, "status": "COMPLETE"}
    assert reader.text == reply.text
    assert proxy.cuts >= 2
