"""A result as JSON: how one is written, and one that has been written already. Knows no transport."""

import orjson
from strawberry.http import process_result
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError


class EncodedResult:
    """What an event of a subscription gave, as the JSON of its result: transports send `payload` as it is."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


def encoded(result: ExecutionResult | EncodedResult) -> bytes:
    """The result as JSON; without `data` where the request was refused before anything was executed."""
    if isinstance(result, EncodedResult):
        return result.payload
    shown = process_result(result)
    if isinstance(result, PreExecutionError):
        del shown["data"]
    return orjson.dumps(shown)
