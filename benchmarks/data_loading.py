"""Pretraining's loader against plain soundfile reads of the same files.

Memory and start-up up to a million utterances.

    python benchmarks/data_loading.py speed FOLDER [--workers 2]
    python benchmarks/data_loading.py scale FOLDER [COUNT ...]

FOLDER is any audio, for example speechocean762; COUNT is a number of utterances (default: 10,000,
100,000 and 1,000,000).

`speed` prints audio hours per second from files, from shards and by soundfile alone, the padding,
and how long a training step waits for its batch. `scale` prepares corpora whose utterances share a
few files, and opens each in a process of its own: seconds to the first batch, to the first one of a
resumed epoch, and the memory that it takes.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mt4ssl_bench.config import load
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.data.batches import Place
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.label_store import write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.upstream.batches import PretrainData
from mt4ssl_bench.upstream.config import DataConfig, PretrainConfig

FILES = 200  # real files that all utterances of `scale` share
PAIRS = 3
BATCHES = 200  # taken by `scale` to see whether memory grows
LABELS_PER_SECOND = 50


def speed(folder: Path, workers: int) -> None:
    """Print the loader's throughput from files and shards over soundfile's, and its padding."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = prepare_path("folder", folder, Path(scratch, "files"))
        sharded = shard_corpus(corpus, Path(scratch, "shards"), splits=("train",))
        hours = corpus.info.splits["train"].hours
        runs: dict[str, list[float]] = {"soundfile": [], "files": [], "shards": []}
        for _ in range(PAIRS + 1):
            began = time.perf_counter()
            for cut in corpus.cuts("train"):
                soundfile.read(cut.recording.sources[0].source, dtype="float32")
            runs["soundfile"].append(time.perf_counter() - began)
            for name, source in (("files", corpus), ("shards", sharded)):
                began = time.perf_counter()
                for _batch in data_of(source, workers)(0):
                    pass
                runs[name].append(time.perf_counter() - began)
        plain = runs["soundfile"][1:]
        print(
            f"{corpus.info.splits['train'].utterances} utterances, {hours:.2f} h, {workers} workers"
        )
        print(f"soundfile, one process: {hours / statistics.median(plain):.2f} h/s")
        for name in ("files", "shards"):
            ratio = statistics.median(p / t for p, t in zip(plain, runs[name][1:], strict=True))
            rate = hours / statistics.median(runs[name][1:])
            print(f"batches from {name}: {rate:.2f} h/s, {ratio:.2f} x soundfile")
        for seconds in (16.0, 80.0, 237.5):
            print(
                f"padding in batches of {seconds:g} s: "
                f"{padding(data_of(corpus, workers, seconds=seconds)):.1%}"
            )
        waiting(corpus, workers)


def data_of(corpus: Corpus, workers: int, *, seconds: float = 80.0) -> PretrainData:
    """Return the training data of a corpus, all of it."""
    config = DataConfig(batch_seconds=seconds, min_seconds=0.1, max_seconds=20, workers=workers)
    return PretrainData([corpus], "train", config, None, normalized=True)


def padding(data: PretrainData) -> float:
    """Return the share of an epoch's samples that are padding."""
    real = padded = 0
    for batch in data(0):
        real += int(batch.lengths.sum())
        padded += batch.waveforms.numel()
    return 1 - real / padded


def waiting(corpus: Corpus, workers: int) -> None:
    """Print which share of its time a training step of the tiny model waits for its batch."""
    import torch

    from mt4ssl_bench.upstream.pretrain import Pretraining, build_model

    config = load(PretrainConfig, "mt4ssl_tiny", ["targets.offline.weight=0"])
    config = replace(config, data=replace(config.data, workers=workers, cache_hours=0.0))
    train = PretrainData([corpus], "train", config.data, None, normalized=True)
    run = Pretraining(config, build_model(config, "cpu"), train, train, corpus.info.digest)
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-4)
    waited, worked, batches = 0.0, 0.0, train.stream()(Place())
    for number in range(45):
        began = time.perf_counter()
        _, batch = next(batches)
        ready = time.perf_counter()
        run.loss(batch, number, 0).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if number >= 5:  # the workers have started
            waited += ready - began
            worked += time.perf_counter() - began
    print(
        f"a step of mt4ssl_tiny waits {waited / worked:.1%} of its time for its batch "
        f"({worked / 40:.2f} s per step)"
    )


def scale(folder: Path, counts: list[int]) -> None:
    """Print, for corpora of growing size, what preparing, opening and resuming them takes."""
    files = sorted(f for f in folder.rglob("*") if f.suffix in {".flac", ".wav"})[:FILES]
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            links = Path(scratch, f"{count}")
            manifest = write_manifest(links, files, count)
            corpus, labels = Path(scratch, f"corpus{count}"), Path(scratch, f"labels{count}")
            command = [sys.executable, "-m", "mt4ssl_bench"]
            prepared = timed([*command, "prepare", "table", str(manifest), "--out", str(corpus)])
            checked = timed([*command, "check", str(corpus)], fails=True)
            info = LabelInfo(digest=Corpus.open(corpus).info.digest, clusters=100)
            cuts = Corpus.open(corpus).cuts("train")
            write_labels(labels, info, fake_labels(cuts))
            out = subprocess.run(
                [sys.executable, __file__, "open", str(corpus), str(labels)],
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(out.stdout)
            print(
                f"{count:>9,}: prepare {prepared[0]:.1f} s ({prepared[0] / count * 1e6:.0f} us "
                f"each, {prepared[1]:.2f} GB), check {checked[0]:.1f} s ({checked[1]:.2f} GB), "
                f"first batch {found['first']:.1f} s, resumed at the end of an epoch "
                f"{found['resumed']:.1f} s, trainer {found['start_gb']:.2f} GB, "
                f"{found['end_gb']:.2f} GB after {BATCHES} batches",
                flush=True,
            )


def write_manifest(folder: Path, files: list[Path], count: int) -> Path:
    """Write a table of `count` utterances that share the files."""
    folder.mkdir()
    manifest = folder / "manifest.tsv"
    with manifest.open("w", encoding="utf-8") as out:
        out.write("id\tpath\tspeaker\tsplit\n")
        for n in range(count):
            split = "valid" if n % 1000 == 0 else "train"
            out.write(
                f"speaker{n % 997:04d}-chapter{n % 31:02d}-{n:07d}\t{files[n % len(files)]}\ts{n % 997}\t{split}\n"
            )
    return manifest


def fake_labels(cuts: Sequence[Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield labels of every utterance, all alike: what is measured is how many there are."""
    for cut in cuts:
        yield cut.id, np.zeros(int(cut.duration * LABELS_PER_SECOND), dtype=np.uint16)


def timed(command: list[str], *, fails: bool = False) -> tuple[float, float]:
    """Return the seconds and the GB (most at a time) of a command in a process of its own."""
    measured = (
        "import resource, subprocess, sys; "
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, "
        "stderr=subprocess.DEVNULL).returncode; print(code, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6)"
    )
    began = time.perf_counter()
    out = subprocess.run(
        [sys.executable, "-c", measured, *command], capture_output=True, text=True, check=True
    )
    code, most = out.stdout.split()
    if code != "0" and not fails:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return time.perf_counter() - began, float(most)


def open_corpus(corpus: Path, labels: Path) -> None:
    """Print as JSON what the trainer's process needs to the first batch.

    The imports are not counted as time.
    """
    from mt4ssl_bench.data.label_store import LabelStore

    began = time.perf_counter()
    config = DataConfig(batch_seconds=80, min_seconds=0.1, workers=2)
    data = PretrainData([Corpus.open(corpus)], "train", config, LabelStore(labels), normalized=True)
    batches = data(0)
    next(batches)
    found = {"first": time.perf_counter() - began, "start_gb": resident()}
    for _ in itertools.islice(batches, BATCHES):
        pass
    found["end_gb"] = resident()
    del batches
    total = len(list(data._batches.order(0)))
    began = time.perf_counter()
    next(data(0, total - 1))
    found["resumed"] = time.perf_counter() - began
    print(json.dumps(found))


def resident() -> float:
    """Return the most memory that this process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    fast = kinds.add_parser("speed")
    fast.add_argument("folder", type=Path)
    fast.add_argument("--workers", type=int, default=2)
    large = kinds.add_parser("scale")
    large.add_argument("folder", type=Path)
    large.add_argument("counts", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    one = kinds.add_parser("open")
    one.add_argument("corpus", type=Path)
    one.add_argument("labels", type=Path)
    asked = parser.parse_args()
    if asked.kind == "speed":
        speed(asked.folder, asked.workers)
    elif asked.kind == "scale":
        scale(asked.folder.resolve(), asked.counts or [10_000, 100_000, 1_000_000])
    else:
        open_corpus(asked.corpus, asked.labels)


if __name__ == "__main__":
    main()
