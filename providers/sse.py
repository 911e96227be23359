"""Server-sent events out of bytes: what arrives in arbitrary pieces leaves as whole payloads.

Knows the event stream format and nothing of what the payloads mean; does no input or output of its own.
"""

MAX_EVENT_BYTES = 8 * 1024 * 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """An event that is not finished after MAX_EVENT_BYTES; reading on would only fill the memory."""


class SseSplitter:
    """Feed it bytes as they arrive; it answers with the payloads that became complete, each stripped.

    Lines end with LF, CRLF or CR; comments and fields other than `data` are dropped; the `data` lines of one event are
    joined by LF. No character is decoded here, so pieces may be cut anywhere.
    """

    __slots__ = ("_data", "_held", "_tail")

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads completed by `piece`. Raises EventTooLargeError."""
        if b"\n" not in piece and b"\r" not in piece:
            self._tail.append(piece)
            self._hold(piece)
            return []
        text = b"".join((*self._tail, piece)) if self._tail else piece
        lines = text.splitlines()
        self._tail = [] if text.endswith(b"\n") else [lines.pop() + (b"\r" if text.endswith(b"\r") else b"")]
        payloads = self._events(lines)
        if payloads or not (self._tail or self._data):
            self._held = 0
        self._hold(piece)
        return payloads

    def rest(self) -> list[bytes]:
        """What was left when the stream ended: a last event counts even without its blank line."""
        lines = b"".join(self._tail).splitlines()
        self._tail = []
        return self._events([*lines, b""])

    def _events(self, lines: list[bytes]) -> list[bytes]:
        payloads, data = [], self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif not line:
                if data:
                    payloads.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
            elif line.startswith(_BYTE_ORDER_MARK + b"data:"):
                data.append(line[8:].strip())
        return payloads

    def _hold(self, piece: bytes) -> None:
        self._held += len(piece)
        if self._held > MAX_EVENT_BYTES:
            raise EventTooLargeError
