"""The seam between what was shown of an answer and its continuation: laws, then what endpoints were seen to send."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.seam import MAX_OVERLAP, MIN_OVERLAP, Seam

SHOWN = "Once upon a time there was a small town by the sea."


def joined(shown: str, *pieces: str) -> str:
    """What comes out of the seam when these pieces arrive."""
    seam = Seam(shown)
    return "".join(map(seam.feed, pieces)) + seam.end()


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def expected(shown: str, arrived: str) -> str:
    """The rule, word by word."""
    ends = [shown[start:] for start in range(len(shown))]
    long_ends = [end for end in ends if MIN_OVERLAP <= len(end) <= MAX_OVERLAP and not end.isspace()]
    repetitions = [text for text in (shown, shown.lstrip(), *long_ends) if arrived.startswith(text)]
    return arrived.removeprefix(max(repetitions, key=len, default=""))


texts = st.text("ab \n", max_size=50)
places = st.lists(st.integers(min_value=0), max_size=12)


@st.composite
def shown_and_arrived(draw: st.DrawFn) -> tuple[str, str]:
    """An arrival that begins with some part of the shown text, or with none, or with nearly one."""
    shown = draw(texts)
    start = draw(st.integers(0, len(shown)))
    end = draw(st.integers(start, len(shown)))
    return shown, shown[start:end] + draw(texts)


# ── laws ──


@given(shown_and_arrived(), places)
def test_what_comes_out_does_not_depend_on_the_pieces(both: tuple[str, str], places: list[int]) -> None:
    shown, arrived = both
    assert joined(shown, *cut(arrived, places)) == joined(shown, arrived) == joined(shown, *arrived)


@given(shown_and_arrived())
def test_the_longest_repetition_at_the_beginning_is_dropped_and_nothing_else(both: tuple[str, str]) -> None:
    assert joined(both[0], *both[1]) == expected(*both)


@given(st.text(), st.text(), places)
def test_after_a_repetition_of_everything_shown_comes_exactly_what_is_new(
    shown: str, new: str, places: list[int]
) -> None:
    assert shown + joined(shown, *cut(shown + new, places)) == shown + new


@given(shown_and_arrived(), places)
def test_nothing_is_lost_but_a_beginning(both: tuple[str, str], places: list[int]) -> None:
    shown, arrived = both
    assert arrived.endswith(joined(shown, *cut(arrived, places)))


@given(st.text("abc ", min_size=1), st.text("xyz\n"), places)
def test_text_that_repeats_nothing_comes_through_unchanged_and_at_once(shown: str, new: str, places: list[int]) -> None:
    seam = Seam(shown)
    for piece in cut(new, places):
        assert seam.feed(piece) == piece
    assert seam.end() == ""


# ── what endpoints send ──


@pytest.mark.parametrize(
    ("shown", "arrived", "new"),
    [
        pytest.param(SHOWN, SHOWN + " The end.", " The end.", id="everything again"),
        pytest.param(SHOWN, " The end.", " The end.", id="only what is new"),
        pytest.param(SHOWN, "a small town by the sea. The end.", " The end.", id="the last words again"),
        pytest.param("\n\nHello wor", "Hello world", "ld", id="everything again but the leading white space"),
        pytest.param("H", "Hello", "ello", id="a short text again"),
        pytest.param("It is very ", "very good", "very good", id="a chance"),
        pytest.param("It is very, very ", "It is very, very good", "good", id="everything, not only its end"),
        pytest.param("x" + " " * 20, " " * 20 + "y", " " * 20 + "y", id="white space"),
        pytest.param(
            SHOWN, SHOWN[:20] + "we had another story", "Once upon a time thewe had another story", id="nearly"
        ),
        pytest.param(SHOWN, "", "", id="nothing"),
        pytest.param("", "Hello", "Hello", id="nothing shown"),
        pytest.param(SHOWN, SHOWN, "", id="everything again and no more"),
        pytest.param(SHOWN, SHOWN[:30], SHOWN[:30], id="a repetition that breaks off"),
        pytest.param(SHOWN, SHOWN + SHOWN, SHOWN, id="a repetition is dropped once"),
    ],
)
def test_what_was_shown_is_not_shown_again(shown: str, arrived: str, new: str) -> None:
    assert joined(shown, arrived) == joined(shown, *arrived) == new


def test_a_piece_is_held_back_while_it_may_be_a_repetition_and_let_go_as_soon_as_it_cannot() -> None:
    seam = Seam("It was a very, very ")
    assert [seam.feed(piece) for piece in ("a very", ", ", "well", " known")] == ["", "", "a very, well", " known"]
    assert seam.end() == ""


def test_a_repetition_is_looked_for_in_the_end_of_a_long_text_only() -> None:
    shown = "".join(f"{number:05}" for number in range(2_000))
    assert joined(shown, shown[-MAX_OVERLAP:] + "new") == "new"
    assert joined(shown, shown[-MAX_OVERLAP - 1 :] + "new") == shown[-MAX_OVERLAP - 1 :] + "new"


@pytest.mark.parametrize("shown", ["word " * 40_000, "a" * 200_000, " " * 199_999 + "a", "ab" * 99_999 + "ca"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_long_text_is_compared_in_pieces(shown: str, size: int) -> None:
    arrivals = {"whole": shown + "new", "last 4,000": shown[-MAX_OVERLAP:] + "new", "alike": shown[:-2] + "x"}
    for name, arrived in arrivals.items():
        pieces = [arrived[start : start + size] for start in range(0, len(arrived), size)]
        began = time.perf_counter()
        out = joined(shown, *pieces)
        print(f"{shown[:6]!r} {name}: {len(pieces):,} pieces in {1000 * (time.perf_counter() - began):.0f} ms")
        assert arrived.endswith(out)
