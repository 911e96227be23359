"""Where the signing key comes from, which keys are refused, and that a made one is nobody else's."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tertulia.settings import SettingsError
from tertulia.signing_key import signing_key

WEAK = {
    "empty": "",
    "short": "Kq3vX8wZ1bN6tR0yH5mJ2cF9pL4sD7g",
    "one character": "x" * 64,
    "few characters": "abcabdacbdabcadbcabdbacdbacdbacdbcadb",
    "changeme": "changeme" * 5,
    "a sentence of an example": "change-me-to-your-secret-key-please!!",
    "secret": "my-secret-secret-secret-secret-secret",
    "a piece again and again": "abcdefghij" * 4,
    "a piece and a half": "Kq3vX8wZ1bN6tR0yH5mJKq3vX8wZ1bN6tR0yH5mJKq3",
    "the alphabet": "abcdefghijklmnopqrstuvwxyz0123456789",
    "digits upwards": "0123456789" * 4,
    "blanks": " " * 40,
}
STRONG = {
    "openssl rand -base64 48": "3kO1vq0s8TgK2nXQmB7hLz5yW4eRjUcPdFaHtNiGxSoVbMwYrEuZpIlCfDqA9J6k",
    "openssl rand -hex 32": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "openssl rand -hex 16": "d41a8cd98f00b2045980e99b0cf842e7",
    "with a name in front": "tertulia-secret-d41a8cd98f00b2045980e99b0cf842e7",
    "words": "wrinkle obtuse marmalade trombone glacier fidget",
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / ".data" / "tertulia.db"


def refused(secret: str | None, file: Path | None, *, loopback: bool = True) -> str:
    with pytest.raises(SettingsError) as caught:
        signing_key(secret, file, loopback=loopback)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "TERTULIA_SECRET_KEY" in sentence
    return sentence


@pytest.mark.parametrize("name", WEAK)
def test_a_key_that_can_be_guessed_is_refused_with_the_cure_and_without_the_key(name: str) -> None:
    sentence = refused(WEAK[name], None, loopback=False)
    assert "openssl rand -base64 48" in sentence
    assert not WEAK[name] or WEAK[name] not in sentence


@pytest.mark.parametrize("name", STRONG)
def test_a_random_key_is_taken_as_it_is(name: str) -> None:
    assert signing_key(STRONG[name], None, loopback=False) == STRONG[name]


def test_a_given_key_makes_no_file(database: Path) -> None:
    signing_key(STRONG["openssl rand -hex 32"], database, loopback=True)
    assert not database.parent.exists()


def test_without_one_a_server_with_postgresql_does_not_start() -> None:
    assert "PostgreSQL" in refused(None, None)


def test_without_one_a_server_that_others_can_reach_does_not_start(database: Path) -> None:
    assert "others can reach" in refused(None, database, loopback=False)
    assert not database.parent.exists()


def test_in_development_a_key_is_made_and_kept_beside_the_database(database: Path) -> None:
    key = signing_key(None, database, loopback=True)
    assert len(key) == 64
    assert signing_key(None, database, loopback=True) == key
    assert [path.name for path in database.parent.iterdir()] == ["tertulia.db.key"]


def test_each_database_has_a_key_of_its_own(tmp_path: Path) -> None:
    assert len({signing_key(None, tmp_path / name, loopback=True) for name in ("a.db", "b.db", "c.db")}) == 3


@pytest.mark.skipif(os.name != "posix", reason="there are no modes")
def test_only_the_owner_can_read_the_kept_key(database: Path) -> None:
    signing_key(None, database, loopback=True)
    assert (database.with_name("tertulia.db.key")).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="there are no modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_kept_key_that_others_can_read_is_refused(database: Path, mode: int) -> None:
    signing_key(None, database, loopback=True)
    database.with_name("tertulia.db.key").chmod(mode)
    assert "chmod 600" in refused(None, database)


@pytest.mark.skipif(os.name != "posix", reason="there are no links")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_the_kept_key_is_refused(database: Path, there: bool) -> None:
    signing_key(None, database, loopback=True)
    kept = database.with_name("tertulia.db.key")
    kept.rename(elsewhere := database.with_name("other.key"))
    if not there:
        elsewhere.unlink()
    kept.symlink_to(elsewhere)
    assert "it is a link" in refused(None, database)


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"\xff\xfe\x00" * 20, b"x" * 64, b"changeme" * 8])
def test_a_kept_key_that_was_damaged_is_refused(database: Path, content: bytes) -> None:
    signing_key(None, database, loopback=True)
    database.with_name("tertulia.db.key").write_bytes(content)
    assert "delete it" in refused(None, database)


def test_a_folder_in_place_of_the_kept_key_is_refused(database: Path) -> None:
    database.with_name("tertulia.db.key").mkdir(parents=True)
    assert "cannot be used" in refused(None, database)


def test_a_file_in_place_of_the_folder_is_refused(database: Path) -> None:
    database.parent.write_text("")
    assert "cannot be used" in refused(None, database)


def test_those_who_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(database: Path) -> str:
        together.wait()
        return signing_key(None, database, loopback=True)

    with ThreadPoolExecutor(8) as starting:
        for number in range(25):
            database = tmp_path / str(number) / "tertulia.db"
            assert len(set(starting.map(start, [database] * 8))) == 1
            assert [path.name for path in database.parent.iterdir()] == ["tertulia.db.key"]
