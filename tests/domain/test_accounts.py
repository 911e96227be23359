"""The rules of accounts: which addresses, passwords and names there may be, and that spellings of one are one."""

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.account_service import SignedIn
from domain.accounts import (
    MAX_EMAIL,
    MAX_NAME,
    MAX_PASSWORD,
    MIN_PASSWORD,
    User,
    check_name,
    check_password,
    digest,
    new_user,
    normalised_email,
    normalised_password,
)
from domain.errors import InvalidInput

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EMAIL = "ada@example.org"
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
LOCAL_PART = st.text(st.characters(exclude_categories=("Z", "Cc", "Cs"), exclude_characters="@"), min_size=1)


# ── addresses ──


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("ada@example.org", "ada@example.org"),
        (" Ada@Example.ORG\n", "ada@example.org"),
        ("ａｄａ＠ｅｘａｍｐｌｅ．ｏｒｇ", "ada@example.org"),
        ("STRASSE@example.org", "strasse@example.org"),
        ("straße@example.org", "strasse@example.org"),
        ("ada+lists@localhost", "ada+lists@localhost"),
        ("用户@例え.jp", "用户@例え.jp"),
        ("e\u0301va@example.org", "éva@example.org"),
    ],
)
def test_spellings_of_an_address_are_one(written: str, stored: str) -> None:
    assert normalised_email(written) == stored


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ada",
        "@",
        "ada@",
        "@example.org",
        "ada@b@example.org",
        "ada lovelace@example.org",
        "ada@example.org\0",
        "ada@exa\nmple.org",
        "ada\u00a0b@example.org",
        "a" * 65 + "@example.org",
        "ada@" + "x" * MAX_EMAIL,
        "ad\ud800a@example.org",
    ],
)
def test_what_cannot_be_an_address_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalised_email(text)
    assert caught.value.path == ("email",)


def normalised(text: str) -> str | None:
    try:
        return normalised_email(text)
    except InvalidInput:
        return None


@given(st.one_of(ANY_TEXT, LOCAL_PART.map(lambda part: f"{part}@example.org")))
def test_an_address_as_it_is_shown_finds_its_account(text: str) -> None:
    email = normalised(text)
    assert email is None or normalised_email(email) == email


@given(LOCAL_PART)
def test_an_address_is_the_same_in_any_case_and_composition(part: str) -> None:
    email = f"{part}@example.org"
    found = {normalised(unicodedata.normalize(form, email)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(found) == 1
    assert normalised(email.casefold()) == normalised(email)


# ── passwords ──


@pytest.mark.parametrize("length", [MIN_PASSWORD, MAX_PASSWORD])
def test_a_password_of_the_allowed_lengths_is_taken_whatever_it_is_made_of(length: int) -> None:
    for character in ("x", " ", "ä", "🦊", "\0"):
        check_password(character * length, EMAIL, "password")


@pytest.mark.parametrize("password", ["", "x" * (MIN_PASSWORD - 1), "x" * (MAX_PASSWORD + 1), "\ud800" * 10])
def test_a_password_that_is_too_short_too_long_or_no_text_is_refused(password: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_password(password, EMAIL, "newPassword")
    assert caught.value.path == ("newPassword",)
    assert password not in caught.value.message or password == ""


@pytest.mark.parametrize(
    "password", ["ada.lovelace@example.org", "ada.lovelace", "Ada.Lovelace", "ADA.LOVELACE@EXAMPLE.ORG"]
)
def test_the_address_is_no_password(password: str) -> None:
    with pytest.raises(InvalidInput, match="must not be the e-mail address"):
        check_password(password, "ada.lovelace@example.org", "password")


@given(ANY_TEXT)
def test_a_password_may_be_typed_in_any_composition(password: str) -> None:
    typed = {normalised_password(unicodedata.normalize(form, password)) for form in ("NFC", "NFD")}
    assert typed == {normalised_password(password)}
    assert normalised_password(normalised_password(password)) == normalised_password(password)


# ── names ──


@pytest.mark.parametrize("name", [None, "A", "Ada 🧀", "x" * MAX_NAME])
def test_a_name_is_anything_that_can_be_seen_or_none(name: str | None) -> None:
    check_name(name, "displayName")


@pytest.mark.parametrize("name", ["", "  ", "\t\n", "x" * (MAX_NAME + 1), "a\0b", "a\udfffb"])
def test_a_name_that_is_empty_too_long_or_no_text_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name(name, "displayName")
    assert caught.value.path == ("displayName",)


# ── users and secrets ──


def test_a_new_user_has_a_normalised_address_and_password() -> None:
    user, password = new_user("user_1", " ADA@example.org", "e\u0301 and seven", "Ada", NOW)
    assert user == User("user_1", "Ada", NOW, EMAIL)
    assert password == "é and seven"


def test_a_secret_is_stored_as_something_else() -> None:
    assert digest("secret") != "secret"
    assert len(digest("secret")) == 64
    assert digest("secret") != digest("Secret")
    assert digest("half \ud800") == digest("half ?"), "any text has a digest"


def test_tokens_are_not_shown_by_whatever_prints_them() -> None:
    signed_in = SignedIn(User("user_1", None, NOW), "ses_1", "s3cret-a", NOW, "s3cret-r", NOW)
    assert "s3cret" not in repr(signed_in)


def check_email(text: str) -> None:
    with pytest.raises(InvalidInput):
        normalised_email(text)


STACKED = "a" + "\u0315" * 16_000 + "\u0327" * 16_000
"""Marks out of their order, which normalising sorts in time by the square of their number."""


@pytest.mark.parametrize("rule", [normalised_password, check_email])
def test_what_is_far_too_long_is_not_normalised(rule: Callable[[str], object]) -> None:
    began = process_time()
    rule(STACKED)
    assert process_time() - began < 0.05
