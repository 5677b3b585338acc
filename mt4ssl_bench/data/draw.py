"""Seeded draws that belong to an utterance: the same in any order, process and batch."""

import hashlib


def draw(*key: object) -> int:
    """Return a number below 2**64 that depends on the key only, for example (seed, epoch, id)."""
    text = " ".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def share(*key: object) -> float:
    """Return a number from 0 up to 1 that depends on the key only."""
    return draw(*key) / 2**64
