"""The part of the kit that is about tools: what must never happen is noticed when it happens."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.effects import FILE, Effects, Mark, Marks, Stage, leave
from tests.system.load import Talk
from tests.system.strict_upstream import StrictUpstream
from tests.system.strictness import refusals
from tests.system.tool_faults import all_call_faults
from tests.system.tool_load import ToolTalk
from tests.system.tool_phases import Phase, phase_of
from tests.system.tool_scripts import ToolScript, progress_of
from tests.system.tool_watching import ToolWatcher
from tests.system.upstream import listening

SCRIPT = ToolScript("key", 8, 1_000, tool="reserve")
Message = dict[str, Any]


# ── what a strict endpoint refuses ──


def asked(*ids: str, arguments: str = "{}", content: str | None = None) -> Message:
    calls = [{"id": id_, "function": {"name": "look", "arguments": arguments}} for id_ in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def told(id_: str, content: str = "done") -> Message:
    return {"role": "tool", "tool_call_id": id_, "content": content}


USER = {"role": "user", "content": "Hi"}


def offered(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


def test_a_history_that_is_whole_is_taken() -> None:
    messages = [USER, asked("a", "b"), told("b"), told("a"), asked("a"), told("a"), USER]
    assert refusals({"messages": messages, "tools": offered("look", "book")}) == []


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([USER, asked("a"), USER], "must be followed"),
        ([USER, asked("a", "b"), told("a")], "must be followed"),
        ([USER, asked("a"), told("a"), told("a")], "must be followed"),
        ([USER, asked("a"), USER, told("a")], "must be followed"),
        ([USER, told("a")], "must be followed"),
        ([USER, asked("a", "a"), told("a"), told("a")], "tell calls apart"),
        ([USER, asked("a", arguments="[]"), told("a")], "no JSON object"),
        ([USER, asked("a", arguments='{"city": '), told("a")], "no JSON object"),
        ([USER, asked("a"), told("a", "")], "without content"),
        ([USER, {"role": "assistant", "content": ""}], "without content"),
        ([USER, {"role": "assistant", "content": "Hi", "tool_calls": []}], "too short"),
        ([{"role": "user", "content": SCRIPT.text}, {"role": "assistant", "content": "1.1@1.0000 "}], "gaps"),
    ],
)
def test_a_history_that_is_not_whole_is_refused(messages: list[Message], why: str) -> None:
    assert why in " ".join(refusals({"messages": messages}))


def test_tools_that_are_offered_twice_are_refused() -> None:
    assert "offered twice" in refusals({"messages": [USER], "tools": offered("look", "look")})[0]


# ── the endpoint ──


async def ask(made: StrictUpstream, *messages: Message) -> tuple[str, list[Message]]:
    """The text of an answer, and its calls."""
    text, calls = "", []
    body = {"messages": messages}
    async with aiohttp.ClientSession() as http, http.post(f"{made.base_url}/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                text += delta.get("content", "")
                for piece in delta.get("tool_calls", ()):
                    if "id" in piece:
                        calls.append(piece)
                    else:
                        calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return text, calls


async def test_the_endpoint_takes_three_steps_and_then_ends_whatever_was_broken_off() -> None:
    messages: list[Message] = [{"role": "user", "content": SCRIPT.text}]
    made: list[tuple[str, str]] = []
    async with listening(StrictUpstream()) as endpoint:
        text, calls = await ask(endpoint, *messages)
        while calls:
            made += [(call["function"]["name"], json.loads(call["function"]["arguments"])["text"]) for call in calls]
            messages += [{"role": "assistant", "content": text, "tool_calls": calls}]
            messages += [told(call["id"]) for call in calls]
            broken_off = {"role": "assistant", "content": (await ask(endpoint, *messages))[0].split()[0] + " "}
            rest, calls = await ask(endpoint, *messages, broken_off, USER)
            text = broken_off["content"] + rest
    assert made == [(call.name, call.text) for call in SCRIPT.wanted]
    progress = progress_of([*messages, {"role": "assistant", "content": text}])
    assert progress is not None
    assert (progress.step, progress.shown) == (3, tuple(range(8)))


async def test_what_the_endpoint_refuses_is_kept() -> None:
    async with listening(StrictUpstream()) as endpoint:
        with pytest.raises(AssertionError, match="must be followed"):
            await ask(endpoint, USER, asked("a"))
        assert len(endpoint.refused) == 1


# ── calls and their effects ──


def call(name: str, status: str = "SUCCEEDED", code: str | None = None, step: int = 1) -> dict[str, Any]:
    text = f"key/{step}/{name}"
    return {
        "id": f"id-{step}-{name}",
        "name": name,
        "status": status,
        "errorCode": code,
        "arguments": {"text": text},
        "argumentsText": json.dumps({"text": text}),
    }


ALL = (call("look", step=0), call("reserve"), call("note"), call("note", step=2))


def effects_of(*calls: dict[str, Any]) -> Effects:
    marks = [Mark(Stage.EFFECT, one["id"], one["name"], one["arguments"]["text"]) for one in calls]
    return Effects.of(marks, [])


def stored_with(*calls: dict[str, Any], status: str = "COMPLETE") -> dict[str, Any]:
    parts = [{"id": f"part-{n}", "__typename": "ToolCallPart", "toolCall": one} for n, one in enumerate(calls)]
    return {"status": status, "text": "", "parts": parts}


def faults_of(
    *calls: dict[str, Any], effects: Effects, status: str = "COMPLETE", said: str = "APPROVE", seen: Any = None
) -> str:
    watcher = ToolWatcher("reply")
    watcher.parts = {part["id"]: part for part in stored_with(*(seen or calls))["parts"]}
    made = ToolTalk(Talk(SCRIPT, "message", "reply"), SCRIPT, [watcher], decided={"id-1-reserve": said})
    return "; ".join(all_call_faults([made], {"reply": stored_with(*calls, status=status)}, effects))


def test_nothing_is_found_where_every_call_took_effect_once() -> None:
    assert faults_of(*ALL, effects=effects_of(*ALL)) == ""


def test_an_idempotent_call_may_run_twice() -> None:
    assert faults_of(*ALL, effects=effects_of(ALL[0], *ALL)) == ""


def test_an_interrupted_call_may_have_taken_effect_once_or_not_at_all() -> None:
    interrupted = (ALL[0], call("reserve", "FAILED", "INTERRUPTED"), *ALL[2:])
    assert faults_of(*interrupted, effects=effects_of(*ALL)) == ""
    assert faults_of(*interrupted, effects=effects_of(ALL[0], *ALL[2:])) == ""


def test_an_effect_that_came_twice_is_noticed() -> None:
    assert "reserve took effect 2 times" in faults_of(*ALL, effects=effects_of(*ALL, ALL[1]))


def test_an_effect_of_a_call_that_was_made_again_under_another_id_is_noticed() -> None:
    again = effects_of(*ALL)
    again.add("id-other", "key/1/note")
    found = faults_of(*ALL, effects=again)
    assert "key/1/note took effect 2 times" in found
    assert "no reply tells of it" in found


def test_a_result_without_its_effect_is_noticed() -> None:
    assert "note succeeded with 0 effects" in faults_of(*ALL, effects=effects_of(*ALL[:3]))
    assert "never ran" in faults_of(*ALL, effects=effects_of(*ALL[1:]))


def test_an_effect_in_the_unit_of_work_without_its_result_is_noticed() -> None:
    interrupted = (*ALL[:3], call("note", "FAILED", "INTERRUPTED", step=2))
    assert "note took effect, and is FAILED INTERRUPTED" in faults_of(*interrupted, effects=effects_of(*ALL))


def test_an_effect_that_the_user_did_not_allow_is_noticed() -> None:
    denied = (ALL[0], call("reserve", "DENIED"), *ALL[2:])
    assert "took effect, and is DENIED" in faults_of(*denied, effects=effects_of(*ALL), said="DENY")
    assert "the user said DENY" in faults_of(*ALL, effects=effects_of(*ALL), said="DENY")


def test_a_call_that_never_ended_is_noticed() -> None:
    open_ = (*ALL[:3], call("note", "RUNNING", step=2))
    assert "left RUNNING" in faults_of(*open_, effects=effects_of(*ALL[:3]), status="FAILED")


def test_a_complete_reply_that_lacks_a_call_is_noticed() -> None:
    assert "called" in faults_of(*ALL[:3], effects=effects_of(*ALL[:3]))


def test_a_reader_that_saw_other_calls_is_noticed() -> None:
    assert "saw other parts" in faults_of(*ALL, effects=effects_of(*ALL), seen=ALL[:3])


# ── readers ──


def changed(cursor: str, now: dict[str, Any]) -> dict[str, Any]:
    return {"__typename": "ToolCallChanged", "cursor": cursor, "partId": "part-0", "toolCall": now}


def watching(first: dict[str, Any]) -> ToolWatcher:
    watcher = ToolWatcher("reply")
    part = {"id": "part-0", "__typename": "ToolCallPart", "toolCall": first}
    watcher.apply({"__typename": "PartAdded", "cursor": "1", "part": part})
    return watcher


def test_a_reader_collects_arguments_and_states() -> None:
    watcher = watching(call("look", "WRITING") | {"argumentsText": '{"text":'})
    rest = {"partId": "part-0", "argumentsText": ' "key/1/look"}'}
    watcher.apply({"__typename": "ToolCallArgumentsDelta", "cursor": "2"} | rest)
    assert watcher.calls[0]["argumentsText"] == call("look")["argumentsText"]
    watcher.apply(changed("3", call("look", "AWAITING_APPROVAL")))
    watcher.apply(changed("4", call("look")))
    assert watcher.waiting.get_nowait() == "id-1-look"
    assert watcher.seen.taken_back == 0


def test_a_call_that_ended_and_changes_again_is_noticed() -> None:
    watcher = watching(call("look"))
    watcher.apply(changed("2", call("look", "RUNNING")))
    assert watcher.seen.taken_back == 1


def test_arguments_that_are_written_anew_are_noticed() -> None:
    watcher = watching(call("look", "WRITING"))
    watcher.apply(changed("2", call("look", "QUEUED") | {"argumentsText": "{}"}))
    assert watcher.seen.taken_back == 1


# ── marks and phases ──


def test_marks_are_read_as_they_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "effects"))
    marks = Marks(tmp_path / "effects")
    marks.look()
    first = Mark(Stage.BEGAN, "id-1-book", "book", "key/1/book")
    leave(first)
    marks.look()
    leave(replace(first, stage=Stage.EFFECT))
    marks.look()
    assert [mark.stage for mark in marks.all] == [Stage.BEGAN, Stage.EFFECT]
    assert marks.stages == {"id-1-book": Stage.EFFECT}


@pytest.mark.parametrize(
    ("status", "stage", "phase"),
    [
        ("WRITING", None, Phase.ARGUMENTS),
        ("RUNNING", None, Phase.RAN),
        ("RUNNING", Stage.BEGAN, Phase.STARTED),
        ("RUNNING", Stage.EFFECT, Phase.EFFECT),
        ("SUCCEEDED", Stage.EFFECT, Phase.BETWEEN),
    ],
)
def test_a_phase_is_told_by_the_calls_and_their_marks(
    tmp_path: Path, status: str, stage: Stage | None, phase: Phase
) -> None:
    watcher = watching(call("reserve", status))
    made = ToolTalk(Talk(SCRIPT, "message", "reply"), SCRIPT, [watcher])
    marks = Marks(tmp_path / "effects")
    if stage is not None:
        marks.stages["id-1-reserve"] = stage
        marks.all.append(Mark(stage, "id-1-reserve", "reserve", "key/1/reserve"))
    assert phase_of(made, marks) is phase
