"""A stock client that shows a tool call as it grows, and gives the user's consent to it."""

from pathlib import Path

import pytest

from tests.clients.scripts import Scripts
from tests.doubles import ScriptedModel, answer, calling
from tests.letters import LETTER, PostOffice
from tests.serving import serving, settings_for

SEND = (
    """mutation { sendMessage(input: {text: "Write to Ada.", settings: {tools: ["send_letter"]}}) { reply { id } } }"""
)
STORED = """query ($id: ID!) { message(id: $id) { status text parts { ... on ToolCallPart {
  toolCall { __typename id name title status arguments argumentsText result error } } } } }"""


@pytest.mark.timeout(120)
async def test_a_client_that_reads_a_tool_call_approves_it_and_holds_what_is_stored(
    scripts: Scripts, tmp_path: Path
) -> None:
    office, model = PostOffice(), ScriptedModel(calling(("send_letter", LETTER)), answer("Done."))
    async with serving(settings_for(tmp_path), model, toolbox=office.toolbox()) as server:
        reply_id = (await server.ask(SEND))["sendMessage"]["reply"]["id"]
        [held] = [line async for line in scripts.lines("consent.mjs", f"{server.url}/graphql", reply_id)]
        stored = (await server.ask(STORED, id=reply_id))["message"]
    assert (held["status"], held["text"]) == (stored["status"], stored["text"]) == ("COMPLETE", "Done.")
    assert held["call"] == stored["parts"][0]["toolCall"]
    assert held["call"]["argumentsText"] == LETTER
    assert office.letters == [("Ada", "Come at five.")]
    assert "AWAITING_APPROVAL" in held["statuses"]
    assert held["statuses"][-1] == "SUCCEEDED"
