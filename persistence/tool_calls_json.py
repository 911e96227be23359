"""Tool calls <-> JSON, for the log, the parts of messages and the rows of calls alike.

Arguments and results are JSON texts inside: databases keep neither the order of an object's keys nor every text that
JSON can say (PostgreSQL refuses U+0000 in a JSONB string). Nothing here knows where the JSON is kept.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.tool_calls import ToolApproval, ToolCall, ToolCallStatus, ToolDecision, ToolErrorCode

CallJson = dict[str, Any]


def call_to_json(call: ToolCall) -> CallJson:
    """Only what is set. Texts that no database can store are made storable."""
    given = {
        "id": call.id,
        "name": call.name,
        "step": call.step,
        "upstream_id": call.upstream_id or None,
        "status": call.status.value,
        "arguments_text": call.arguments_text or None,
        "arguments": None if call.arguments is None else _json_text(call.arguments),
        "result": None if call.result is None else _json_text(call.result),
        "error": call.error,
        "error_code": call.error_code and call.error_code.value,
        "approval": call.approval and _approval_to_json(call.approval),
        "started_at": _text(call.started_at),
        "finished_at": _text(call.finished_at),
    }
    return _set_in(given)


def call_from_json(data: Mapping[str, Any]) -> ToolCall:
    approval, code = data.get("approval"), data.get("error_code")
    return ToolCall(
        id=data["id"],
        name=data["name"],
        step=data["step"],
        upstream_id=data.get("upstream_id", ""),
        status=ToolCallStatus(data["status"]),
        arguments_text=data.get("arguments_text", ""),
        arguments=json.loads(data["arguments"]) if "arguments" in data else None,
        result=json.loads(data["result"]) if "result" in data else None,
        error=data.get("error"),
        error_code=None if code is None else ToolErrorCode(code),
        approval=None if approval is None else _approval_from_json(approval),
        started_at=_instant(data.get("started_at")),
        finished_at=_instant(data.get("finished_at")),
    )


def _approval_to_json(approval: ToolApproval) -> CallJson:
    given = {
        "requested_at": approval.requested_at.isoformat(),
        "expires_at": _text(approval.expires_at),
        "decided_at": _text(approval.decided_at),
        "decision": approval.decision and approval.decision.value,
        "comment": approval.comment,
    }
    return _set_in(given)


def _approval_from_json(data: Mapping[str, Any]) -> ToolApproval:
    decision = data.get("decision")
    return ToolApproval(
        requested_at=datetime.fromisoformat(data["requested_at"]),
        expires_at=_instant(data.get("expires_at")),
        decided_at=_instant(data.get("decided_at")),
        decision=None if decision is None else ToolDecision(decision),
        comment=data.get("comment"),
    )


def _set_in(given: CallJson) -> CallJson:
    return {
        name: _storable(value) if isinstance(value, str) else value
        for name, value in given.items()
        if value is not None
    }


def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
