"""The verdict on replies that call tools, and its figures: the same after every fault."""

from collections import Counter
from typing import Any

from tests.system.cluster import Cluster
from tests.system.effects import Effects
from tests.system.load import completes, faults_in
from tests.system.report import Outcome
from tests.system.tokens import Script
from tests.system.tool_faults import all_call_faults, open_rows
from tests.system.tool_load import ToolLoad, talk_again
from tests.system.tool_watching import calls_in


async def judge_calls(
    outcome: Outcome,
    servers: Cluster,
    load: ToolLoad,
    stored: dict[str, dict[str, Any]],
    effects: Effects,
    faults: list[str],
) -> None:
    """All that is promised of calls and of what is said next, beside the faults that were found before."""
    faults += all_call_faults(load.talks, stored, effects) + await open_rows(servers)
    outcome.found(faults, len(load.talks), "replies with tools")
    again = await talk_again(servers, load.talks, lambda n: Script(f"again-{n}", 4, 200))
    outcome.found(await faults_in(servers, again, completes), len(again), "next messages")
    refused = await servers.refused()
    outcome.expect(not refused, f"{len(refused)} requests were refused: {refused[:2]}")


def call_figures(stored: dict[str, dict[str, Any]], effects: Effects) -> list[str]:
    calls = [call for reply in stored.values() for call in calls_in(reply["parts"])]
    ends = Counter(f"{call['status']} {call['errorCode'] or ''}".strip() for call in calls)
    repeated = sum(times > 1 for times in effects.looks.values())
    replies = Counter(reply["status"] for reply in stored.values())
    return [
        *(f"{times} replies {end}" for end, times in replies.most_common()),
        *(f"{times} calls {end}" for end, times in ends.most_common()),
        f"{sum(effects.calls.values())} effects",
        f"{repeated} idempotent calls repeated",
    ]
