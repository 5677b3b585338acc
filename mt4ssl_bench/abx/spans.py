"""Frames of tokens: an interval of time becomes a range of frames, in exact arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.abx.items import MICROSECONDS, Dropped, Token
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.frame_grid import STRIDE
from mt4ssl_bench.errors import CorpusError

# "librilight": without the last frame, as the program of Libri-Light (arXiv 1912.07875) slices
Slice = Literal["exact", "librilight"]
CLIPPED = "tokens clipped at the end of their utterance"
DOUBLED = "tokens that are listed once more"


@dataclass(frozen=True)
class Grid:
    """Times of frames: frame i is at (center + i * stride) / RATE seconds.

    Attributes:
        stride: Samples from frame to frame.
        center: Time of frame 0 in samples. Default: stride / 2, which published scores use; the
            center of the receptive field (200 for wav2vec 2.0's convolutions) is later.
    """

    stride: int = STRIDE
    center: Fraction | int | None = None

    def frames(self, onset: int, offset: int) -> tuple[int, int]:
        """Return the first frame of a closed interval in microseconds, and the one after its last.

        Floating-point arithmetic would misplace a frame at 19 of the 399 times 0.01 s ... 3.99 s.
        """
        center = Fraction(self.stride, 2) if self.center is None else Fraction(self.center)
        start, stop = (
            (Fraction(time * RATE, MICROSECONDS) - center) / self.stride for time in (onset, offset)
        )
        return max(math.ceil(start), 0), math.floor(stop) + 1


@dataclass(frozen=True)
class Spans:
    """Tokens with their frames.

    Attributes:
        tokens: N tokens of at least one frame.
        starts: First frame of each token in its utterance (N,).
        lengths: Number of frames (N,).
        slice: Rule that gave them; a score is comparable only with scores of the same rule.
        dropped: Numbers of tokens that were dropped or clipped.
    """

    tokens: tuple[Token, ...]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    slice: Slice
    dropped: Dropped


def find_frames(
    tokens: Sequence[Token],
    num_frames: Mapping[str, int],
    grid: Grid | None = None,
    rule: Slice = "exact",
) -> Spans:
    """Return the tokens that have a frame, with their frames.

    Tokens that end after their utterance are clipped. Of tokens with one interval and category,
    only the first is kept: the distance between two of them is 0. Use the same spans for all models
    that are compared.

    Args:
        tokens: Tokens in any order.
        num_frames: Number of frames by utterance id.
        grid: Times of frames. Default: 50 frames per second.
        rule: "exact" takes each frame whose time is in the token; "librilight" drops the last one.

    Raises:
        CorpusError: If no token is left.
    """
    grid = grid or Grid()
    found: list[tuple[Token, int, int]] = []
    seen: set[tuple[str, int, int, str]] = set()
    dropped = Dropped()
    for token in tokens:
        place = f"'{token.category}' at {token.onset / MICROSECONDS:g} s of '{token.utterance}'"
        key = (token.utterance, token.onset, token.offset, token.category)
        if token.utterance not in num_frames or key in seen:
            dropped.add(DOUBLED if key in seen else "tokens of utterances without features", place)
            continue
        seen.add(key)
        start, stop = grid.frames(token.onset, token.offset)
        stop -= rule == "librilight"
        if stop > num_frames[token.utterance] > start:
            dropped.add(CLIPPED, place)
        stop = min(stop, num_frames[token.utterance])
        if start < stop:
            found.append((token, start, stop - start))
        else:
            dropped.add("tokens without a frame", place)
    if not found:
        raise CorpusError(f"no token to compare ({str(dropped) or 'the list is empty'})")
    return Spans(
        tokens=tuple(token for token, _, _ in found),
        starts=np.array([start for _, start, _ in found], dtype=np.int64),
        lengths=np.array([length for _, _, length in found], dtype=np.int64),
        slice=rule,
        dropped=dropped,
    )
