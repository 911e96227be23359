"""What became of replies that call tools: their stored calls beside what took effect.

Pure but for `stored_faults`, which asks the servers and the database. One sentence for each fault.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from tests.system.cluster import TERMINAL, Cluster
from tests.system.effects import Effects
from tests.system.tool_load import ToolTalk
from tests.system.tool_watching import ENDED, PARTS, Call, calls_in

NODES = f"""query ($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on Message {{
  id text status generation {{ attempts error {{ code }} }} {PARTS} }} }} }}"""
OPEN_ROWS = """SELECT count(*) FROM tool_calls JOIN replies ON replies.id = reply_id
               WHERE replies.status = ANY($1) AND tool_calls.status <> ALL($2)"""


async def open_rows(cluster: Cluster) -> list[str]:
    """Calls of replies that have ended, and that have not."""
    left = await cluster.number(OPEN_ROWS, list(TERMINAL), list(ENDED))
    return [f"{left} rows of calls are left open"] if left else []


def call_faults(call: Call, effects: Effects, decided: str | None) -> list[str]:
    """What one stored call says, beside its effects."""
    name, status, times = call["name"], call["status"], effects.calls[call["id"]]
    found = []
    if status not in ENDED:
        found.append(f"{name} is left {status}")
    if times > 1:
        found.append(f"{name} took effect {times} times")
    if status == "SUCCEEDED" and name != "look" and times != 1:
        found.append(f"{name} succeeded with {times} effects")
    if status == "SUCCEEDED" and name == "look" and not effects.looks[call["id"]]:
        found.append("look succeeded and never ran")
    if times and status != "SUCCEEDED" and (name == "note" or not _unknown(call)):
        found.append(f"{name} took effect, and is {status} {call['errorCode']}")
    if name == "reserve" and times and decided != "APPROVE":
        found.append(f"reserve took effect, and the user said {decided}")
    if status == "DENIED" and decided != "DENY":
        found.append(f"{name} is DENIED, and the user said {decided}")
    return found


def _unknown(call: Call) -> bool:
    """Whether it is told that nobody knows whether the call took effect."""
    return bool(call["errorCode"] == "INTERRUPTED")


def reply_call_faults(made: ToolTalk, stored: dict[str, Any], effects: Effects) -> list[str]:
    """Of one reply: its calls, what its script asked for, and what its readers saw."""
    calls = calls_in(stored["parts"])
    found = [fault for call in calls for fault in call_faults(call, effects, made.decided.get(call["id"]))]
    whole = [(call["name"], (call["arguments"] or {}).get("text")) for call in calls if call["status"] != "CANCELLED"]
    wanted = [(call.name, call.text) for call in made.script.wanted]
    if stored["status"] == "COMPLETE" and whole != wanted:
        found.append(f"called {whole} instead of {wanted}")
    found += [f"{call.text} took effect {effects.texts[call.text]} times" for call in _twice(made, effects)]
    found += [f"a reader saw other parts: {watcher.calls}" for watcher in made.watchers if watcher.calls != calls]
    return [f"{made.script.key} ({made.reply_id}): {fault}" for fault in found + made.wrong]


def _twice(made: ToolTalk, effects: Effects) -> list[Any]:
    return [call for call in made.script.wanted if effects.texts[call.text] > 1]


def unknown_effects(stored: Iterable[dict[str, Any]], effects: Effects) -> list[str]:
    """Effects of calls that no reply has."""
    told = {call["id"] for reply in stored for call in calls_in(reply["parts"])}
    return [f"{call} took effect, and no reply tells of it" for call in effects.calls if call not in told]


def all_call_faults(talks: Sequence[ToolTalk], stored: dict[str, dict[str, Any]], effects: Effects) -> list[str]:
    found = unknown_effects(stored.values(), effects)
    for made in talks:
        found += reply_call_faults(made, stored[made.reply_id], effects) if made.reply_id in stored else []
    return found
