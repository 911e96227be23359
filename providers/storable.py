"""Text that every database can store, out of text as endpoints send it.

With one exception it stays as it was sent: U+0000 and surrogates without their other half become U+FFFD. Knows nothing
of what the text is for.
"""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_HIGH_SURROGATES = ("\ud800", "\udbff")


class Storable:
    """Makes a text that arrives in pieces storable; holds back half a surrogate pair until its other half is there."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        if not self._half and (piece.isascii() or not _UNSTORABLE.search(piece)) and "\0" not in piece:
            return piece
        text = self._half + piece
        self._half = text[-1] if _HIGH_SURROGATES[0] <= text[-1] <= _HIGH_SURROGATES[1] else ""
        return self.whole(text.removesuffix(self._half))

    def rest(self) -> str:
        """U+FFFD in place of a half that waited in vain, else nothing."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""

    @staticmethod
    def whole(text: str) -> str:
        """A text that is complete: pairs are joined, halves and U+0000 replaced."""
        if text.isascii() and "\0" not in text:
            return text
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return paired.replace("\0", "\ufffd")
