"""What is wrong with an input is said without the input, which may be a password and gets into the logs of clients."""

import json

import pytest

from tests.serving import Serving

LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { errors { code } } }"
PASSWORD = "kept-between-us"
WRONG: tuple[object, ...] = (
    {"password": PASSWORD},
    {"email": "a@example.com", "password": [PASSWORD]},
    {"email": "a@example.com", "password": {"is": PASSWORD}},
    {"email": "a@example.com", "password": PASSWORD, "more": 1},
    PASSWORD,
    [PASSWORD],
)
LITERALS = (
    f'{{password: "{PASSWORD}"}}',
    f'{{email: "a@example.com", password: ["{PASSWORD}"]}}',
    f'"{PASSWORD}"',
)


@pytest.mark.parametrize("given", WRONG)
async def test_a_wrong_variable_is_not_repeated(server: Serving, given: object) -> None:
    answer = await server.post({"query": LOGIN, "variables": {"input": given}})
    assert answer["errors"]
    assert PASSWORD not in json.dumps(answer)


@pytest.mark.parametrize("literal", LITERALS)
async def test_a_wrong_literal_is_not_repeated(server: Serving, literal: str) -> None:
    answer = await server.post({"query": f"mutation {{ login(input: {literal}) {{ errors {{ code }} }} }}"})
    assert answer["errors"]
    assert PASSWORD not in json.dumps(answer)
