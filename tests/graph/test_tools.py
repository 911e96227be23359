"""Tools in settings and in lists, and the tasks that some of them make."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.accounts import LOCAL_USER_ID
from domain.tasks import Task, TaskPriority, TaskStatus
from tests.doubles import ScriptedModel, answer, calling
from tests.graph.tool_pages import SEND, sent
from tests.letters import PostOffice
from tests.patience import PATIENCE_SECONDS
from tests.serving import Serving, serving, settings_for


@pytest.fixture
async def server(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Serving]:
    async with serving(settings_for(tmp_path), model, toolbox=PostOffice().toolbox()) as running:
        yield running


async def test_tools_are_listed_with_what_a_model_is_told(server: Serving) -> None:
    data = await server.ask("{ tools { name title description parameters needsApproval source } }")
    postage, letter = data["tools"]
    assert (postage["name"], postage["needsApproval"]) == ("postage", False)
    assert (letter["name"], letter["title"], letter["needsApproval"]) == ("send_letter", "Send a letter", True)
    assert letter["description"] == "Send a letter."
    assert letter["parameters"]["required"] == ["to", "text"]
    assert letter["source"] == "PLUGIN"


async def test_a_tool_that_is_not_there_is_refused(server: Serving) -> None:
    payload = (await server.ask(SEND, tools=["postage", "absent"]))["sendMessage"]
    expected = {"__typename": "UnavailableError", "code": "TOOL_UNAVAILABLE", "path": ["input", "settings", "tools"]}
    assert payload["errors"] == [expected]


CREATE = """mutation ($settings: GenerationSettingsInput) { createConversation(input: {settings: $settings}) {
  conversation { id settings { toolChoice tools { name } } } errors { code path } } }"""


async def test_a_conversation_tells_which_tools_it_offers(server: Serving) -> None:
    offered = {"tools": ["postage"], "toolChoice": "REQUIRED"}
    one = (await server.ask(CREATE, settings=offered))["createConversation"]["conversation"]
    assert one["settings"] == {"toolChoice": "REQUIRED", "tools": [{"name": "postage"}]}
    other = (await server.ask(CREATE, settings={}))["createConversation"]["conversation"]
    assert other["settings"] == {"toolChoice": "AUTO", "tools": []}


WRONG_TOOLS = {"twice": ["postage", "postage"], "no name": ["no name"], "too many": [f"tool_{n}" for n in range(129)]}


@pytest.mark.parametrize("what", WRONG_TOOLS)
async def test_names_of_tools_must_keep_the_rules(server: Serving, what: str) -> None:
    payload = (await server.ask(CREATE, settings={"tools": WRONG_TOOLS[what]}))["createConversation"]
    assert payload["errors"] == [{"code": "INVALID_INPUT", "path": ["input", "settings", "tools"]}]


async def test_the_texts_of_calls_count_towards_the_length_of_an_answer(
    server: Serving, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graph.context.MAX_CHARACTERS", 200)
    model.play(calling(("postage", f'{{"grams": 20{" " * 150}}}')), answer("85 cents."))
    reply_id = await sent(server)
    await server.running.services.stream.settled(reply_id, PATIENCE_SECONDS)
    query = "query ($id: ID!) { message(id: $id) { parts { ... on ToolCallPart { toolCall { argumentsText } } } } }"
    await server.ask(query, id=reply_id)
    twice = query.replace("argumentsText", "argumentsText again: argumentsText")
    body = await server.post({"query": twice, "variables": {"id": reply_id}})
    assert body["errors"][0]["extensions"]["code"] == "QUERY_TOO_COMPLEX"


TASKS = """query ($status: TaskStatus, $first: Int) { tasks(status: $status, first: $first) {
  id title description priority status createdAt completedAt conversation { id title } } }"""


async def noted(server: Serving, conversation_id: str) -> list[Task]:
    """Three tasks, the second of which is done."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    first = Task(
        id="task_1",
        user_id=LOCAL_USER_ID,
        conversation_id=conversation_id,
        title="Buy stamps",
        description="Ten of them.",
        priority=TaskPriority.HIGH,
        status=TaskStatus.PENDING,
        created_at=at,
    )
    tasks = [replace(first, id=f"task_{n}", created_at=at + timedelta(hours=n)) for n in (1, 2, 3)]
    async with server.running.storage.write() as work:
        for task in tasks:
            assert await work.tasks.add(task)
        await work.tasks.complete("task_2", at)
        await work.commit()
    return tasks


async def test_tasks_are_listed_newest_first_with_their_conversation(server: Serving) -> None:
    conversation = (await server.ask(CREATE))["createConversation"]["conversation"]
    await noted(server, conversation["id"])
    tasks = (await server.ask(TASKS))["tasks"]
    assert [task["id"] for task in tasks] == ["task_3", "task_2", "task_1"]
    assert tasks[0] == {
        "id": "task_3",
        "title": "Buy stamps",
        "description": "Ten of them.",
        "priority": "HIGH",
        "status": "PENDING",
        "createdAt": "2026-01-01T03:00:00+00:00",
        "completedAt": None,
        "conversation": {"id": conversation["id"], "title": "New conversation"},
    }
    assert [task["id"] for task in (await server.ask(TASKS, status="COMPLETED"))["tasks"]] == ["task_2"]
    assert [task["id"] for task in (await server.ask(TASKS, first=1))["tasks"]] == ["task_3"]


async def test_a_task_outlives_its_conversation(server: Serving) -> None:
    conversation = (await server.ask(CREATE))["createConversation"]["conversation"]
    await noted(server, conversation["id"])
    await server.ask(
        "mutation ($id: ID!) { deleteConversation(input: {conversationId: $id}) { deletedId } }",
        **{"id": conversation["id"]},
    )
    assert [task["conversation"] for task in (await server.ask(TASKS))["tasks"]] == [None, None, None]


@pytest.mark.parametrize("first", [0, -1, 1_001])
async def test_a_list_of_tasks_has_a_length_that_is_allowed(server: Serving, first: int) -> None:
    body = await server.post({"query": TASKS, "variables": {"first": first}})
    assert body["errors"][0]["extensions"]["code"] == "INVALID_INPUT"
