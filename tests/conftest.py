"""Shared fixtures: a tiny synthetic corpus for fast tests, and real speech where it is there."""

import itertools
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from torch.distributed import TCPStore

from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.data.corpus import Corpus

RATE = 16_000
# three tones of unequal pitch stand for three "words": a head can learn to read them from any
# spectrum
WORDS = {"LOW": ("L OW", 300.0), "MID": ("M IH D", 900.0), "HIGH": ("HH AY", 2400.0)}
SPEECH = os.environ.get("MT4SSL_BENCH_SPEECH", "")


def write_tones(folder: Path, speakers: int = 3, each: int = 8) -> Path:
    """Write a manifest of tone sequences: each speaker has an amplitude and a vibrato of their
    own.
    """
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
            rows.append(
                f"{name}\taudio/{name}.flac\t{seconds}\tspk{s}\ten\t{' '.join(words)}\t{phones}\t{split}"
            )
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


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """Give each test the package's logger as a library user has it.

    Commands set it up for stderr.
    """
    log = logging.getLogger("mt4ssl_bench")
    before = (log.handlers, log.level, log.propagate)
    yield log
    log.handlers, log.level, log.propagate = before


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def corpus(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("corpora") / "tones"
    return prepare(
        read_table(manifest),
        out,
        source=manifest,
        name="tones",
        strict=True,
        phones_from="manifest",
        synthetic=True,
    )


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recorded speech; tests that use it are marked `speech`."""
    if not SPEECH or not Path(SPEECH).is_dir():
        pytest.skip(
            "real speech is not here: set MT4SSL_BENCH_SPEECH to a folder that holds "
            "fsdd_strings/manifest.tsv"
        )
    return Path(SPEECH)


class Prefork:
    """Processes that run the command line and start in a moment; see fixtures/prefork.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.stores: list[TCPStore] = []
        command = [sys.executable, str(Path(__file__).parent / "fixtures" / "prefork.py")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def _ask(self, question: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, *argv: str, **env: str) -> tuple[int, Path]:
        """Return the pid and the file that takes what the process says."""
        self.count += 1
        out = self.folder / f"said-{self.count}.txt"
        return self._ask({"argv": argv, "env": env, "out": str(out)}), out

    def wait(self, pid: int) -> int:
        """Return the exit code, negative for a signal."""
        return self._ask({"wait": pid})

    def world(self, size: int, *argv: str) -> list[tuple[int, Path]]:
        """Start the processes of one run, as torchrun would: it keeps the store where they meet."""
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        self.stores.append(store)
        env = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
        env |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        return [
            self.start(*argv, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(size)
        ]


@pytest.fixture(scope="session")
def prefork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefork]:
    server = Prefork(tmp_path_factory.mktemp("prefork"))
    yield server
    assert server.server.stdin is not None
    server.server.stdin.close()
    server.server.wait(timeout=30)


def bigrams(file: Path, sentences: list[str]) -> str:
    """Write the sentences' bigrams by relative frequency, backing off to equally likely words."""
    pairs = [pair for s in sentences for pair in itertools.pairwise(["<s>", *s.split(), "</s>"])]
    first = [a for a, _ in pairs]
    vocabulary = sorted({word for pair in pairs for word in pair})
    bigrams = sorted(set(pairs))
    lines = [
        "\\data\\",
        f"ngram 1={len(vocabulary) + 1}",
        f"ngram 2={len(bigrams)}",
        "",
        "\\1-grams:",
        "-3\t<unk>\t0",
    ]
    lines += [f"{-99 if word == '<s>' else -1}\t{word}\t-1" for word in vocabulary]
    lines += ["", "\\2-grams:"]
    lines += [
        f"{math.log10(pairs.count(p) / first.count(p[0])):.4f}\t{p[0]} {p[1]}" for p in bigrams
    ]
    file.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="session")
def write_arpa() -> Callable[[Path, list[str]], str]:
    """A function that writes a language model of some sentences, and returns its path as a key's
    value.
    """
    return bigrams
