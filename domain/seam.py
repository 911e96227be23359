"""The seam between the shown part of an answer and its continuation: a repetition of what was shown is dropped.

Endpoints that are asked to go on often begin with the shown text, or with its end, again. Pure: text in, text out;
who asks whom, and why the answer broke off, is not known here.
"""

MIN_OVERLAP = 12
"""Characters from which on a repeated end of the shown text is no chance: after "very " may well come "very good"."""
MAX_OVERLAP = 4_000
"""Characters of the shown text's end in which a partial repetition is looked for."""


class Seam:
    """Feed it a continuation of `shown` in pieces; it answers with what is new.

    A repetition is the longest beginning of the continuation that is all of `shown` (with or without the white space
    it begins with), or an end of it, at least MIN_OVERLAP and at most MAX_OVERLAP characters long and not all white
    space. It is dropped, once; everything else comes out as it was, however the text is cut into pieces.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._wholes = (0, len(shown) - len(shown.lstrip()))
        """Where repetitions of everything begin."""
        self._first = max(0, len(shown) - MAX_OVERLAP)
        self._last = min(len(shown) - MIN_OVERLAP, len(shown.rstrip()) - 1)
        """Between these two, repetitions of an end begin."""
        self._start = 0
        self._end = 0
        """What is held back stands in `shown` between these two."""
        self._open = True

    def feed(self, text: str) -> str:
        """What may be shown now: nothing as long as all that arrived can still grow into a longer repetition."""
        if not self._open:
            return text
        if self._end + len(text) < len(self._shown) and self._shown.startswith(text, self._end):
            self._end += len(text)
            return ""
        arrived = self._held() + text
        start = self._longer_repetition(arrived)
        if start is None:
            self._open = False
            return arrived[self._repeated(arrived) :]
        self._start, self._end = start, start + len(arrived)
        return ""

    def end(self) -> str:
        """What was held back and is no repetition, when the answer is whole.

        Not for one that was cut: what was held back then is most likely a repetition that was cut too.
        """
        if not self._open:
            return ""
        self._open = False
        return self._held()[self._repeated(self._held()) :]

    def _held(self) -> str:
        return self._shown[self._start : self._end]

    def _longer_repetition(self, arrived: str) -> int | None:
        """Where a repetition begins in `shown` of which `arrived` is a part, but not all."""
        room = len(self._shown) - len(arrived)
        starts = [start for start in self._wholes if start < room and self._shown.startswith(arrived, start)]
        end = min(self._last + len(arrived), len(self._shown) - 1)
        partial = self._shown.find(arrived, self._first, max(end, 0))
        return min([*starts, partial] if partial >= 0 else starts, default=None)

    def _repeated(self, arrived: str) -> int:
        """The length of the repetition with which `arrived` begins."""
        shortest = max(self._first, len(self._shown) - len(arrived))
        starts = (*self._wholes, *range(shortest, self._last + 1))
        return max((len(self._shown) - start for start in starts if arrived.startswith(self._shown[start:])), default=0)
