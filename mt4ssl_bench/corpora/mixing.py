"""Mixtures of several speakers by LibriMix's rule: which utterances, how loud, how long.

LibriMix (Cosentino et al., 2020) draws pairs of different speakers, brings each utterance to a
random loudness and adds them from their first samples on.
Shapes: N samples, S sources.
"""

import io
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from mt4ssl_bench.corpora.audio_files import put_audio
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.audio import RATE, Samples
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.wheels import import_torchaudio

MIN_SECONDS = 3.0  # shorter utterances are not used
LOUDNESS = -33.0, -25.0  # LUFS, lowest and highest of a source
MAX_AMPLITUDE = 0.9  # of what would clip
Mode = Literal["max", "min"]  # as long as the longest source, or as the shortest


def draw_pairs(rows: Sequence[Row], count: int, draw: random.Random) -> Iterator[tuple[Row, Row]]:
    """Yield `count` different pairs of utterances by different speakers.

    Each round uses every utterance once, but for those that find no other speaker. With a `count`
    of 0 there is one round, as LibriMix's training set is made.
    """
    seen: set[frozenset[str]] = set()
    fruitless = 0
    while fruitless < 10:  # rounds without a new pair: there are hardly any left
        fruitless += 1
        left = list(rows)
        while len({row.speaker for row in left}) > 1:
            one, two = draw.sample(left, 2)
            if one.speaker == two.speaker:
                continue
            left = [row for row in left if row.id not in {one.id, two.id}]
            pair = frozenset((one.id, two.id))
            if pair not in seen:
                seen.add(pair)
                fruitless = 0
                yield one, two
            if len(seen) == count:
                return
        if not count:
            return


def loudness(samples: Samples) -> float:
    """Return the integrated loudness of ITU-R BS.1770-4 in LUFS; -inf of silence."""
    import torch

    torchaudio = import_torchaudio("the loudness of mixtures")
    wave = torch.from_numpy(samples)[None]
    return float(torchaudio.functional.loudness(wave, RATE).nan_to_num(-float("inf")))


def at_loudness(samples: Samples, target: float) -> Samples:
    """Return samples of a loudness in LUFS, or, where they would clip, of MAX_AMPLITUDE.

    Raises:
        CorpusError: If they have no loudness: silence, or too quiet for BS.1770's gate.
    """
    own = loudness(samples)
    if not math.isfinite(own):
        raise CorpusError(f"a source without loudness ({own:g} LUFS); expected audible speech")
    louder: Samples = samples * np.float32(10 ** ((target - own) / 20))
    peak = np.abs(louder).max()
    return louder if peak < 1 else louder * np.float32(MAX_AMPLITUDE / peak)


def mix(sources: Sequence[Samples], mode: Mode) -> list[Samples]:
    """Return the mixture (N,) and its S sources, (N,) each, padded or cut to its length.

    If the whole mixture exceeds MAX_AMPLITUDE, all are made quieter by one factor.
    """
    longest = max(map(len, sources))
    padded = np.stack([np.pad(source, (0, longest - len(source))) for source in sources])
    peak = np.abs(padded.sum(axis=0)).max()
    padded *= np.float32(min(1.0, MAX_AMPLITUDE / max(peak, MAX_AMPLITUDE)))
    length = longest if mode == "max" else min(map(len, sources))
    return [padded.sum(axis=0)[:length], *padded[:, :length]]


def turns_of(
    speakers: Mapping[str, str], segments: Mapping[str, Sequence[Turn]], lasts: float
) -> tuple[Turn, ...]:
    """Return the turns of a mixture's speakers, cut off where it ends after `lasts` seconds.

    Args:
        speakers: Speaker by utterance; all utterances begin with the mixture.
        segments: Speech by utterance. Its labels are not read: those of a voice activity detector
            are the same for all utterances.
        lasts: Length of the mixture.
    """
    return within(
        (turn._replace(label=who) for name, who in speakers.items() for turn in segments[name]),
        lasts,
    )


def within(turns: Iterable[Turn], lasts: float) -> tuple[Turn, ...]:
    """Return turns in order, cut off where their mixture ends after `lasts` seconds."""
    return tuple(
        sorted(turn._replace(end=min(turn.end, lasts)) for turn in turns if turn.start < lasts)
    )


def write_flac(path: Path, samples: Samples, corpus: Path) -> None:
    """Write 16-bit FLAC of a corpus that is being prepared in the folder `corpus`; see put_audio().

    Raises:
        CorpusError: If the file cannot be written (for example, disk full), or the folder holds
            another corpus.
    """
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, RATE, format="FLAC", subtype="PCM_16")
    try:
        put_audio(path, encoded.getvalue(), corpus)
    except OSError as error:
        raise CorpusError(f"{path}: could not be written ({error}); free the disk") from None
