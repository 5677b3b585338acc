"""Shared fixtures: a tiny synthetic corpus for fast tests, and real speech where it is there."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.prepare import prepare_table

RATE = 16_000
# three tones of unequal pitch stand for three "words": a head can learn to read them from any spectrum
WORDS = {"LOW": ("L OW", 300.0), "MID": ("M IH D", 900.0), "HIGH": ("HH AY", 2400.0)}
SPEECH = os.environ.get("MT4SSL_BENCH_SPEECH", "")


def write_tones(folder: Path, speakers: int = 3, each: int = 8) -> Path:
    """Write a manifest of tone sequences: each speaker has an amplitude and a vibrato of their own."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    rows = ["id\tpath\tduration_s\tspeaker\tlanguage\ttext\tphones\tsplit"]
    for s in range(speakers):
        for u in range(each):
            words = rng.choice(list(WORDS), size=3 + u % 3)
            name = f"s{s}-{u}"
            samples = speak(words, s, rng)
            soundfile.write(folder / "audio" / f"{name}.flac", samples, RATE)
            split = "test" if u == 0 else "valid" if u == 1 else "train"
            phones = " ".join(WORDS[word][0] for word in words)
            seconds = f"{len(samples) / RATE:.3f}"
            rows.append(f"{name}\taudio/{name}.flac\t{seconds}\tspk{s}\ten\t{' '.join(words)}\t{phones}\t{split}")
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def speak(words: Sequence[str], speaker: int, rng: np.random.Generator) -> np.ndarray:
    parts = []
    for word in words:
        t = np.arange(int(RATE * rng.uniform(0.25, 0.4))) / RATE
        wobble = 1 + 0.01 * (speaker + 1) * np.sin(2 * np.pi * (3 + 2 * speaker) * t)
        parts += [0.2 * np.sin(2 * np.pi * WORDS[word][1] * wobble * t), np.zeros(RATE // 20)]
    samples = np.concatenate(parts)
    return (samples + 0.003 * rng.standard_normal(len(samples))).astype(np.float32)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def corpus(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare_table(manifest, tmp_path_factory.mktemp("corpora") / "tones", name="tones", synthetic=True)


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recorded speech; tests that use it are marked `speech`."""
    if not SPEECH or not Path(SPEECH).is_dir():
        pytest.skip("real speech is not here: set MT4SSL_BENCH_SPEECH to a folder that holds fsdd_strings/manifest.tsv")
    return Path(SPEECH)
