"""Bytes into text: any cut, any line ending, any character. No network: the pieces that read a stream, in a row."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.models import TextChunk
from providers.frames import CompletionReader
from providers.sse import SseSplitter
from tests.providers.endpoint import DONE, delta, event, finish, said


def text_of(*pieces: bytes) -> str:
    """The text in a stream that arrives in these pieces."""
    splitter, reader = SseSplitter(), CompletionReader()
    payloads = [payload for piece in pieces for payload in splitter.feed(piece)] + splitter.rest()
    chunks = [chunk for payload in payloads if payload != b"[DONE]" for chunk in reader.read([payload])]
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk))


def raw(json_text: str) -> bytes:
    """The event of a frame whose content is this JSON string, escapes and all."""
    return b'data: {"choices":[{"delta":{"content":' + json_text.encode() + b"}}]}\n\n"


storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


@given(
    st.lists(storable, max_size=8),
    st.lists(st.integers(min_value=0), max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_cut_of_the_bytes_gives_the_same_text(texts: list[str], places: list[int], newline: str) -> None:
    frames = [json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False) for text in texts]
    stream = newline.join(line for frame in frames for line in (f"data: {frame}", "")).encode()
    stream += newline.encode() * 2 + DONE
    assert text_of(*cut(stream, places)) == "".join(texts)


@given(st.text(), st.lists(st.integers(min_value=0), max_size=4))
def test_whatever_is_sent_what_arrives_can_be_stored(text: str, places: list[int]) -> None:
    pieces = [piece.decode("utf-32-le", "surrogatepass") for piece in cut_characters(text, places)]
    frames = b"".join(raw(json.dumps(piece)) for piece in pieces)
    arrived = text_of(frames, finish())
    assert "\0" not in arrived
    arrived.encode()


def cut_characters(text: str, places: list[int]) -> list[bytes]:
    units = text.encode("utf-32-le", "surrogatepass")
    return cut(units, [place % (len(text) + 1) * 4 for place in places])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_every_byte_alone_gives_the_same_text(newline: bytes) -> None:
    stream = (said("naïve", " 😀", " 漢字") + finish() + DONE).replace(b"\n", newline)
    assert text_of(*(stream[place : place + 1] for place in range(len(stream)))) == "naïve 😀 漢字"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (said("a").replace(b"data: ", b"data:"), "a"),
        (said("a", "b").replace(b"\n", b"\r\n"), "ab"),
        (said("a", "b").replace(b"\n", b"\r"), "ab"),
        (b": ping\n\n" + said("a") + b": ping\n\n" + said("b"), "ab"),
        (b"event: message\nid: 1\nretry: 5\n" + said("a"), "a"),
        (b'data: {"choices":\ndata: [{"delta":\ndata: {"content":"a"}}]}\n\n', "a"),
        (said("a").rstrip(), "a"),
        (b"\xef\xbb\xbf" + said("a"), "a"),
        (b"\n\n\n" + said("a"), "a"),
        (said("x" * 3_000_000), "x" * 3_000_000),
    ],
    ids=[
        "no space after the colon",
        "CRLF",
        "CR",
        "comments",
        "other fields",
        "an event of several lines",
        "no blank line at the end",
        "byte order mark",
        "blank lines",
        "an event larger than any buffer",
    ],
)
def test_every_spelling_of_the_event_stream_is_understood(stream: bytes, expected: str) -> None:
    assert text_of(stream) == expected


@pytest.mark.parametrize("piece", [1, 7, 16_384])
def test_a_large_event_may_come_in_pieces(piece: int) -> None:
    stream = said("x" * 50_000)
    assert text_of(*(stream[at : at + piece] for at in range(0, len(stream), piece))) == "x" * 50_000


def test_a_pair_escaped_in_one_frame_is_one_character() -> None:
    assert text_of(raw(r'"\ud83d\ude00"')) == "😀"


def test_a_pair_split_over_two_frames_is_one_character() -> None:
    assert text_of(raw(r'"a\ud83d"'), raw(r'"\ude00b"')) == "a😀b"


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        (r'"a\ud800b"', "a\ufffdb"),
        (r'"a\udc00b"', "a\ufffdb"),
        (r'"a\u0000b"', "a\ufffdb"),
        (r'"ü\u0000"', "ü\ufffd"),
    ],
)
def test_what_no_database_stores_is_replaced(sent: str, arrived: str) -> None:
    assert text_of(raw(sent)) == arrived


def test_half_a_pair_at_the_end_is_replaced() -> None:
    assert text_of(raw(r'"a\ud83d"'), finish()) == "a\ufffd"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert text_of(b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n') == "a\ufffdb"


def test_names_that_the_endpoint_gives_are_storable_too() -> None:
    reader = CompletionReader()
    list(reader.read([b'{"id":"a\\u0000","model":"b\\ud800","choices":[{"delta":{},"finish_reason":"stop"}]}']))
    end = reader.finish()
    assert (end.completion_id, end.response_model) == ("a\ufffd", "b\ufffd")


def test_usage_survives_a_frame_that_is_read_leniently() -> None:
    reader = CompletionReader()
    list(
        reader.read(
            [b'{"choices":[{"delta":{"content":"\\ud800"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}']
        )
    )
    usage = reader.finish().usage
    assert usage is not None
    assert usage.input_tokens == 3


def test_fields_nobody_knows_are_ignored() -> None:
    assert text_of(event({"new": 1, "choices": [{"delta": {"content": "a", "audio": {}}, "logprobs": []}]})) == "a"


def test_a_delta_of_text_and_reasoning_gives_both() -> None:
    reader = CompletionReader()
    payload = delta(content="a", reasoning="b").removeprefix(b"data: ").strip()
    assert [type(chunk).__name__ for chunk in reader.read([payload])] == ["ReasoningChunk", "TextChunk"]
