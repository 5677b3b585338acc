"""Noisy speech with its clean original, from a prepared corpus and files of noise, for enhancement.

    python benchmarks/mix_noise.py corpora/mini NOISE_FOLDER noisy
    mt4ssl-bench prepare table noisy/manifest.tsv --out corpora/noisy

Signal-to-noise ratios are VoiceBank-DEMAND's: 0, 5, 10 and 15 dB for train and valid; 2.5, 7.5,
12.5 and 17.5 dB for test. The last third of each file of noise is for test only.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, speaker_of
from mt4ssl_bench.data.draw import draw

SPLITS = ("train", "valid", "test")
SNRS = {"train": (0, 5, 10, 15), "valid": (0, 5, 10, 15), "test": (2.5, 7.5, 12.5, 17.5)}
PEAK = 0.99


def mix(cut: Cut, noises: Sequence[audio.Samples], snr: float) -> tuple[audio.Samples, ...]:
    """Return noisy and clean samples (N,), both made quieter if the noisy ones would clip."""
    clean = audio.read(cut)
    random = np.random.default_rng(draw(0, cut.id))
    noise = noises[random.integers(len(noises))]
    noise = np.take(noise, random.integers(len(noise)) + np.arange(len(clean)), mode="wrap")
    gain = np.sqrt((clean @ clean) / (noise @ noise) / 10 ** (snr / 10))
    noisy = clean + np.float32(gain) * noise
    scale = min(1.0, PEAK / float(np.abs([noisy, clean]).max()))
    return np.float32(scale) * noisy, np.float32(scale) * clean


def write(corpus: Corpus, noises: Mapping[str, Sequence[audio.Samples]], out: Path) -> Path:
    """Write the mixtures of a corpus as FLAC, and their table."""
    rows = ["id\tpath\tother:clean\tspeaker\tsplit"]
    for split in SPLITS:
        for number, cut in enumerate(corpus.cuts(split)):
            snr = SNRS[split][number % len(SNRS[split])]
            paths = [Path(kind) / f"{cut.id}.flac" for kind in ("noisy", "clean")]
            for path, samples in zip(paths, mix(cut, noises[split], snr), strict=True):
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(out / path, samples, audio.RATE)
            rows.append("\t".join([cut.id, *map(str, paths), speaker_of(cut), split]))
    table = out / "manifest.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("corpus", type=Path, help="folder of a prepared corpus of clean speech")
    parser.add_argument("noise", type=Path, help="folder with audio files of noise")
    parser.add_argument("out", type=Path, help="folder for mixtures, clean speech and table")
    given = parser.parse_args()
    files = [audio.read_file(file) for file in audio_files(given.noise)]
    parts = [
        (samples[: 2 * len(samples) // 3], samples[2 * len(samples) // 3 :]) for samples in files
    ]
    seen, unseen = zip(*parts, strict=True)
    noises = {"train": seen, "valid": seen, "test": unseen}
    print(write(Corpus.open(given.corpus), noises, given.out))


if __name__ == "__main__":
    main()
