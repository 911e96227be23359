"""Everything an endpoint can do wrong, as a ProviderError: exceptions, statuses, error bodies and error frames.

The message is for users and never quotes the endpoint; the detail is for the operator's log and never holds the key.
Nothing here decides whether a request is made again: that is `retries.py`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from domain.errors import ProviderError, ReplyErrorCode
from providers.sse import EventTooLargeError

DETAIL_CHARACTERS = 500

UNREACHABLE = "The model's provider cannot be reached right now; try again in a moment."
TROUBLED = "The model's provider has trouble of its own right now; try again in a moment."
BROKE_OFF = "The model's provider broke off before the answer was complete; try again for a whole one."
TOO_SLOW = "The model's provider did not answer in time; try again in a moment."
BAD_CREDENTIALS = "The model's provider refused this server's credentials; the operator has to check them."
BAD_REQUEST = "The model's provider refused this request; try other settings or another model."
BAD_ADDRESS = "The model's provider answered from another address than configured; the operator has to check it."
NO_SUCH_MODEL = "This model is not offered by this server; the `models` query lists those that are."
TOO_LONG = "The conversation is longer than this model can take; shorten it or choose a model with a larger context."
TOO_MANY_CALLS = "The model's calls of tools go beyond all bounds; ask for less at once, or try another model."
TOO_MANY = "The model's provider takes no more requests from this server right now; try again later."
QUOTA_USED_UP = "This server's quota with the model's provider is used up; the operator has to renew it."

TRANSPORT_FAILURES = (aiohttp.ClientError, OSError)
_KEY_LIKE = re.compile(r"\b(?:sk|pk|key|rk)-[^\s\"',;]+")
_QUOTA = re.compile(r"insufficient_quota|billing_hard_limit|exceeded your current quota", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|available context size|prompt is too long",
    re.IGNORECASE,
)


class OptionRefusedError(ProviderError):
    """The endpoint does not take the request in this form; in another one the same request may succeed at once."""


@contextmanager
def provider_failures(secret: str) -> Iterator[None]:
    """Turn what the client library raises into ProviderError; `secret` is kept out of the detail."""
    try:
        yield
    except EventTooLargeError as error:
        raise broke_off("an event without end") from error
    except TRANSPORT_FAILURES as error:
        raise _from_transport(error, secret) from error


def from_status(status: int, headers: Mapping[str, str], body: str, secret: str = "") -> ProviderError:
    """The failure behind an answer that is not a success."""
    code, message, retryable = _judge(status, body)
    detail = redacted(f"HTTP {status}: {body}", secret)
    return ProviderError(code, message, retryable=retryable, retry_after=retry_after(headers), detail=detail)


_BY_STATUS = {
    401: (ReplyErrorCode.PROVIDER_REJECTED, BAD_CREDENTIALS, False),
    402: (ReplyErrorCode.PROVIDER_RATE_LIMITED, QUOTA_USED_UP, False),
    403: (ReplyErrorCode.PROVIDER_REJECTED, BAD_CREDENTIALS, False),
    408: (ReplyErrorCode.PROVIDER_TIMEOUT, TOO_SLOW, True),
    429: (ReplyErrorCode.PROVIDER_RATE_LIMITED, TOO_MANY, True),
}


def _judge(status: int, body: str) -> tuple[ReplyErrorCode, str, bool]:
    if status >= 500:
        return ReplyErrorCode.PROVIDER_UNAVAILABLE, TROUBLED, True
    if status < 400:
        return ReplyErrorCode.PROVIDER_UNAVAILABLE, BAD_ADDRESS, False
    if status == 429 and _QUOTA.search(body):
        return _BY_STATUS[402]
    if status not in _BY_STATUS and _CONTEXT.search(body):
        return ReplyErrorCode.CONTEXT_TOO_LONG, TOO_LONG, False
    return _BY_STATUS.get(status, (ReplyErrorCode.PROVIDER_REJECTED, BAD_REQUEST, False))


def from_frame(error: object) -> ProviderError:
    """The failure behind an `error` object inside a successful answer.

    Where the object carries an HTTP status as its code it is judged like that status, else it is an answer cut short.
    """
    body = msgspec.json.encode(error, enc_hook=str).decode()
    code = error.get("code") if isinstance(error, dict) else None
    if _CONTEXT.search(body):
        return from_status(400, {}, body)
    if isinstance(code, int) and 400 <= code < 500:
        return from_status(code, {}, body)
    return broke_off(f"error frame: {body}")


def broke_off(detail: str) -> ProviderError:
    return ProviderError(ReplyErrorCode.PROVIDER_UNAVAILABLE, BROKE_OFF, retryable=True, detail=redacted(detail))


def too_many_calls(detail: str) -> ProviderError:
    return ProviderError(ReplyErrorCode.PROVIDER_REJECTED, TOO_MANY_CALLS, retryable=False, detail=detail)


def option_refused(option: str) -> OptionRefusedError:
    return OptionRefusedError(
        ReplyErrorCode.PROVIDER_REJECTED,
        BAD_REQUEST,
        retryable=True,
        detail=f"the endpoint has its own way of {option}",
    )


def unknown_model(model: str) -> ProviderError:
    return ProviderError(
        ReplyErrorCode.PROVIDER_REJECTED, NO_SUCH_MODEL, retryable=False, detail=redacted(f"no provider for {model!r}")
    )


def _from_transport(error: BaseException, secret: str) -> ProviderError:
    chain = list(_causes(error))
    detail = redacted(" <- ".join(f"{type(link).__name__}: {link}" for link in chain), secret)
    if any(isinstance(link, TimeoutError) for link in chain):
        return ProviderError(ReplyErrorCode.PROVIDER_TIMEOUT, TOO_SLOW, retryable=True, detail=detail)
    if any(isinstance(link, aiohttp.ClientConnectorError) for link in chain):
        return ProviderError(ReplyErrorCode.PROVIDER_UNAVAILABLE, UNREACHABLE, retryable=True, detail=detail)
    return broke_off(detail)


def never_sent(error: BaseException) -> bool:
    """Whether the request failed on a connection that was closed already when it was to be written."""
    return any(isinstance(link, aiohttp.ClientConnectionResetError) for link in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def redacted(text: str, secret: str = "") -> str:
    """At most DETAIL_CHARACTERS of `text`, without the secret and without anything that looks like a key."""
    if secret:
        text = text.replace(secret, "[key]")
    return _KEY_LIKE.sub("[key]", text)[:DETAIL_CHARACTERS]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks us to wait, from `retry-after-ms` or `Retry-After` (seconds or a date)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None or value is None else _seconds_until(value)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _seconds_until(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
