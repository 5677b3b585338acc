"""Words to phones: a word outside the lexicon becomes SPN and is counted, never guessed."""

import unicodedata
from collections import Counter
from collections.abc import Mapping

UNKNOWN = "SPN"  # spoken noise: what SUPERB's phoneme set uses for words without a pronunciation
# left and right quotation mark, modifier letter and full-width apostrophe
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))

Words = Mapping[str, tuple[str, ...]]


def plain_apostrophes(text: str) -> str:
    """Return `text` with "'" for every typographic apostrophe."""
    return text.translate(APOSTROPHES)


def lookup_form(text: str) -> str:
    """Return `text` as words are looked up: upper case, one spelling of alike characters."""
    return unicodedata.normalize("NFKC", plain_apostrophes(text)).upper()


def pronunciations(text: str, lexicon: Words, missing: Counter[str]) -> list[tuple[str, ...]]:
    """Return all pronunciations of each word; one without any is SPN, counted in `missing`."""
    words = lookup_form(text).split()
    missing.update(word for word in words if word not in lexicon)
    return [lexicon.get(word, (UNKNOWN,)) for word in words]


def pronounce(text: str, lexicon: Words, missing: Counter[str]) -> str:
    """Return the first pronunciation of each word of `text`; see pronunciations()."""
    return " ".join(variants[0] for variants in pronunciations(text, lexicon, missing))
