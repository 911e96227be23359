"""The law of tool calls: however they are cut into frames, what arrives is what was sent. No network."""

import json
import random
from collections.abc import Callable
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from domain.models import ChatChunk
from providers.frames import CompletionReader
from tests.providers.asking import calls_in
from tests.providers.endpoint import called, entry, finish, said

Entry = dict[str, object]
Sent = list[tuple[str, str, str]]

storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
arguments = st.dictionaries(storable, st.one_of(storable, st.integers(), st.none()), max_size=3).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
calls = st.lists(st.tuples(names, arguments), max_size=5).map(
    lambda pairs: [(f"id-{place}", *pair) for place, pair in enumerate(pairs)]
)


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def cut_name(name: str, places: list[int]) -> list[str]:
    """Pieces of which none is the same as all before it: that would be a name which comes again."""
    pieces = cut(name, places)
    wholes = accumulate(pieces, initial="")
    return pieces if all(piece != before for piece, before in zip(pieces, wholes, strict=False)) else [name]


def chunks_of(frames: list[list[Entry]], *, text: str = "") -> list[ChatChunk]:
    reader = CompletionReader()
    events = [called(*frame) + (said(text) if text else b"") for frame in frames] + [finish("tool_calls")]
    payloads = [payload.removeprefix(b"data: ") for event in events for payload in event.split(b"\n\n") if payload]
    return [chunk for payload in payloads for chunk in reader.read([payload])]


def heads(sent: Sent, places: list[int], index: Callable[[int], int | None]) -> list[list[Entry]]:
    """For each call the entries with its id and the pieces of its name."""
    return [
        [entry(index(n), id if piece == 0 else None, text) for piece, text in enumerate(cut_name(name, places))]
        for n, (id, name, _) in enumerate(sent)
    ]


def tails(sent: Sent, places: list[int], index: Callable[[int], int | None]) -> list[list[Entry]]:
    """For each call the entries with the pieces of its arguments."""
    return [
        [entry(index(n), arguments=piece) for piece in cut(arguments, places)]
        for n, (_, _, arguments) in enumerate(sent)
    ]


cuts = st.lists(st.integers(min_value=0), max_size=6)
indexes = st.sampled_from([lambda n: n, lambda n: 3 * n + 2, lambda n: 0, lambda n: None])


@given(calls, cuts, cuts, indexes)
def test_calls_one_after_the_other_arrive_whole(
    sent: Sent, name_cuts: list[int], cuts: list[int], index: Callable[[int], int | None]
) -> None:
    both = zip(heads(sent, name_cuts, index), tails(sent, cuts, index), strict=True)
    assert calls_in(chunks_of([[piece] for head, tail in both for piece in (*head, *tail)])) == sent


@given(calls, cuts, st.randoms(use_true_random=False))
def test_arguments_that_come_by_turns_arrive_whole(sent: Sent, cuts: list[int], chance: random.Random) -> None:
    waiting = [tail for tail in tails(sent, cuts, lambda n: n) if tail]
    frames = list(heads(sent, [], lambda n: n))
    while waiting:
        chosen = chance.sample(waiting, chance.randint(1, len(waiting)))
        frames.append([tail.pop(0) for tail in chosen])
        waiting = [tail for tail in waiting if tail]
    assert calls_in(chunks_of(frames)) == sent


@given(calls, indexes)
def test_calls_in_whole_frames_arrive_whole_alone_and_together(sent: Sent, index: Callable[[int], int | None]) -> None:
    entries = [entry(index(n), *call) for n, call in enumerate(sent)]
    assert calls_in(chunks_of([entries])) == calls_in(chunks_of([[one] for one in entries])) == sent


@given(calls, cuts)
def test_names_and_ids_in_every_frame_are_not_doubled(sent: Sent, cuts: list[int]) -> None:
    frames = [[entry(n, id, name, piece)] for n, (id, name, text) in enumerate(sent) for piece in cut(text, cuts)]
    assert calls_in(chunks_of(frames)) == sent


nonsense = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(st.characters(), max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
entries = st.one_of(
    st.none(),
    st.builds(
        entry,
        st.one_of(st.none(), st.integers(-1, 3), st.sampled_from(["0", "x"])),
        st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["", "a", "b", "null"])),
        st.one_of(st.none(), st.text(st.characters(), max_size=3)),
        nonsense,
    ),
)


@given(st.lists(st.lists(entries, max_size=4), max_size=8), st.sampled_from(["", "text"]))
def test_whatever_comes_the_promises_of_the_port_are_kept(frames: list[list[Entry]], text: str) -> None:
    for id, name, arguments in calls_in(chunks_of(frames, text=text)):
        (id + name + arguments).encode()
        assert "\0" not in id + name + arguments
