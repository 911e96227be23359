"""Nobody reaches what is somebody else's: every place of the schema that takes an id, with ids that are not one's own.

The places are found in the schema, see `calls.py`. Whatever is tried, an id of another person's answers as one that
does not exist, byte for byte, and changes and tells the other nothing.
"""

import json
from itertools import count
from typing import Any

import pytest

from graph.schema import build_schema
from tests.graph.protocol import SSE
from tests.security.calls import CALLS, Path, World, places, with_id
from tests.security.people import Person
from tests.security.stage import SECRET, Stage, state, world_of

on_the_stage = pytest.mark.asyncio(loop_scope="module")
PLACES = places(build_schema()._schema)
HALF = "\\ud800"
MALFORMED = {
    "empty": "",
    "short": "x",
    "nul": "\0",
    "nul within": "conv_\0",
    "long": "x" * 10_000,
    "sql": "' OR '1'='1' --",
    "emoji": "🜏",
    "wildcard": "conv_%",
    "null bytes of utf-16": "c\0o\0n\0v\0",
}
_numbers = count(1)


async def outcome(person: Person, document: str, variables: dict[str, Any], given: str) -> tuple[int, str]:
    """Status and body, in which the id that was given bears one name."""
    body = json.dumps({"query": document, "variables": variables})
    headers = person.headers | {"content-type": "application/json"}
    if document.startswith("subscription"):
        headers |= SSE
    async with person.server.http.post(f"{person.server.url}/graphql", data=body, headers=headers) as response:
        text = await (_first_event(response) if "conversationEvents" in document else response.text())
    return response.status, text.replace(f'"id":{json.dumps(given, ensure_ascii=False)}', '"id":"given"')


async def _first_event(response: Any) -> str:
    """Of a stream that does not end: that it begins anew, whatever cursor and instant it begins at."""
    async for line in response.content:
        if line.startswith(b"data: ") and line.strip() != b"data:":
            return str(json.loads(line[6:])["data"]["conversationEvents"]["__typename"])
    return "nothing"


def absent(id_: str) -> str:
    """An id of the same kind that nobody has."""
    return id_[:-12] + f"{next(_numbers):012x}"


def foreign_ids(own: World, others: World, kind: str) -> dict[str, str]:
    """The other's id of the right kind, and theirs of every other kind."""
    known = others.kinds()
    return {"right kind": known[kind]} | {f"another kind: {name}": id_ for name, id_ in known.items() if name != kind}


def test_every_field_that_takes_an_id_and_every_root_field_has_a_case() -> None:
    assert PLACES.keys() == CALLS.keys()
    assert {name: ids for name, ids in PLACES.items() if ids} == {
        name: set(call.kinds) for name, call in CALLS.items() if call.kinds
    }


WITH_IDS = [(name, path) for name, ids in sorted(PLACES.items()) for path in sorted(ids)]
BY_PLACE = pytest.mark.parametrize(("name", "path"), WITH_IDS, ids=[f"{n}-{'.'.join(p)}" for n, p in WITH_IDS])


@pytest.mark.parametrize("name", sorted(CALLS))
@on_the_stage
async def test_each_case_is_valid_and_tells_and_changes_nothing_of_others(
    stage: Stage, attacker: Person, name: str
) -> None:
    before, own = await state(stage.victim), await world_of(attacker, "Hello")
    call = CALLS[name]
    status, text = await outcome(attacker, call.document, call.variables(own), "\0")
    assert status == 200
    assert '"errors":[{' not in text, text
    assert not [id_ for id_ in stage.world.kinds().values() if id_ in text]
    assert SECRET not in text
    assert stage.victim.email not in text
    assert await state(stage.victim) == before


@BY_PLACE
@on_the_stage
async def test_an_id_of_somebody_else_is_as_one_that_does_not_exist(
    stage: Stage, attacker: Person, name: str, path: Path
) -> None:
    own, call = await world_of(attacker, "Hello"), CALLS[name]
    assert call.kinds is not None
    before, mine = await state(stage.victim), await state(attacker)
    kind = call.kinds[path]
    nobodys = absent(own.kinds()[kind])
    expected = await outcome(attacker, call.document, with_id(call.variables(own), path, nobodys), nobodys)
    assert expected[0] == 200
    assert "NOT_FOUND" in expected[1] or "null" in expected[1] or expected[1] == "ResyncRequired", expected
    for what, id_ in (foreign_ids(own, stage.world, kind) | MALFORMED).items():
        found = await outcome(attacker, call.document, with_id(call.variables(own), path, id_), id_)
        assert found == expected, what
    assert await state(stage.victim) == before, "nothing of the victim's has changed, and they are told nothing"
    assert await state(attacker) == mine, "nor has anything of the attacker's"


@BY_PLACE
@on_the_stage
async def test_half_a_character_in_an_id_is_no_request(stage: Stage, name: str, path: Path) -> None:
    call = CALLS[name]
    variables = json.dumps(with_id(call.variables(stage.world), path, "HALF")).replace("HALF", HALF)
    body = f'{{"query": {json.dumps(call.document)}, "variables": {variables}}}'
    headers = stage.victim.headers | {"content-type": "application/json"}
    async with stage.server.http.post(f"{stage.server.url}/graphql", data=body, headers=headers) as response:
        assert response.status == 400
        assert "not valid JSON" in await response.text()
