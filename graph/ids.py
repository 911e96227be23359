"""Global ids as clients see them: a prefix that names the kind, and a UUIDv7 in hex. Cursors of connections too."""

import base64
import binascii

from domain.errors import InvalidInput

CONVERSATION = "conv_"
MESSAGE = "msg_"
USER = "user_"


def part_id(message_id: str, index: int) -> str:
    """Parts are numbered within their message, so their ids follow from it."""
    return f"part_{message_id.removeprefix(MESSAGE)}_{index}"


def encode_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, argument: str) -> str | None:
    """Raises InvalidInput when it is not one of ours."""
    if cursor is None:
        return None
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error) as error:
        raise InvalidInput(
            f"`{argument}` is not a cursor; pass a `startCursor` or `endCursor` as it came.", argument
        ) from error
