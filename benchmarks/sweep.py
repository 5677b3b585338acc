"""Five learning rates against one: training linear heads from stored features of realistic sizes.

    python benchmarks/sweep.py [threads] [updates]

Prints, for each case, the time per update of one and of five rates (medians of alternating runs)
and their ratio. Features and targets are random: neither changes what an update costs. Reading is
part of it, validation hardly.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import MonoCut, SupervisionSegment
from lhotse.testing.dummies import dummy_recording

from mt4ssl_bench.downstream.task import TASKS, Task
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.features.file import FeatureSet, StoredFeatures, Writer
from mt4ssl_bench.features.index import Header

RATES, PAIRS, UTTERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3), 3, 48


@dataclass(frozen=True)
class Case:
    """Hidden states, their dimension, seconds of an utterance, distinct units or speakers."""

    name: str
    task: str
    layers: int
    dim: int
    seconds: float
    units: int
    batch: int


CASES = (
    Case("PR, small model (5 x 256), 4 s utterances", "phoneme", 5, 256, 4.0, 41, 16),
    Case("PR, Base model (13 x 768), 12 s utterances", "phoneme", 13, 768, 12.0, 71, 16),
    Case("SID, small model (5 x 256), 40 speakers", "speaker", 5, 256, 4.0, 40, 32),
    Case("SID, Base model (13 x 768), 1,251 speakers", "speaker", 13, 768, 8.0, 1251, 32),
)


def cuts_of(case: Case, rng: np.random.Generator) -> list[Any]:
    """Cuts with 10 phones a second, each unit at least once among them.

    Their audio does not exist.
    """
    found = []
    for number in range(UTTERANCES if case.task == "phoneme" else max(UTTERANCES, case.units)):
        phones = rng.integers(0, case.units, int(10 * case.seconds))
        said = {"phones": " ".join(f"P{(phone + number) % case.units}" for phone in phones)}
        about = SupervisionSegment(
            f"{number}",
            f"{number}",
            0,
            case.seconds,
            speaker=f"S{number % case.units}",
            custom=said,
        )
        found.append(
            MonoCut(f"{number}", 0, case.seconds, 0, [about], recording=dummy_recording(number))
        )
    return found


def store(case: Case, cuts: list[Any], folder: Path) -> FeatureSet:
    """Random features in a file, as the store keeps them; a speaker's are means of 8 crops."""
    rng, rows = np.random.default_rng(0), 8 if case.task == "speaker" else int(case.seconds * 50)
    header = Header(
        upstream="noise", fingerprint="", corpus="", digest="", split="train", kind="frames", utterances=len(cuts),
        hours=0.0, precision="fp16", layers=case.layers, dim=case.dim,
    )  # fmt: skip
    values = rng.standard_normal((case.layers, rows, case.dim), dtype=np.float32)
    file = folder / f"{case.task}-{case.dim}.bin"
    Writer(file, header).write(iter([[(cut.id, values * rng.uniform(0.5, 1.5))] for cut in cuts]))
    return StoredFeatures(file, lambda name: values)  # noqa: ARG005


def measure(case: Case, updates: int, device: str = "cpu") -> tuple[float, float]:
    """Return the wall time of one update of one rate and of five, medians of alternating runs."""

    def seconds(task: Task) -> float:
        began = time.perf_counter()
        Sweep(task, case.layers, case.dim, device=device, title=case.name).run(train, valid)
        return (time.perf_counter() - began) / task.config.steps

    cuts = cuts_of(case, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        features = store(case, cuts, Path(folder))
        pooled = case.task == "speaker"
        train = Split(cuts, features, pooled=pooled, device=device)
        valid = Split(cuts[:1], features, pooled=pooled, device=device)
        steps = updates * (10 if pooled else 1)
        tasks = []
        for rates in (RATES[:1], RATES):
            kind = TASKS.get(case.task)
            config = kind.Config(
                task=case.task, sweep=rates, steps=steps, batch=case.batch, validate_every=steps
            )
            tasks.append(kind(config))
            tasks[-1].fit_units(cuts)
        seconds(tasks[1])  # pages and checksums are read once
        times = [[seconds(task) for task in tasks] for _ in range(PAIRS)]
    one, five = (statistics.median(column) for column in zip(*times, strict=True))
    return one, five


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("threads", type=int, nargs="?", default=1, help="of torch")
    parser.add_argument("updates", type=int, nargs="?", default=10, help="of each run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for case in CASES:
        one, five = measure(case, options.updates)
        print(
            f"{case.name}: one rate {1e3 * one:.1f} ms, five {1e3 * five:.1f} ms per update, ratio "
            f"{five / one:.2f}"
        )


if __name__ == "__main__":
    main()
