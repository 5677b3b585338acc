"""Training on CPU threads while another process uses one core, under OpenMP's policy and ours.

    python benchmarks/shared_machine.py CORPUS [--repeats 3] [--cases asr_tiny ...]

Times the sweeps of `asr_tiny` and `phoneme_tiny` on random features of the size of `mt4ssl_tiny`'s,
and updates of `pretrain mt4ssl_tiny` through the command line. Each runs on a free machine and
beside a process that computes without end (in the same session, at the same priority), in
alternation, under two policies: "openmp" has a thread for each core, which spins while it waits, and
trains heads in turn; "ours" is mt4ssl_bench/threads.py. Prints medians, ranges and ratios, in
about seven minutes on two cores. Nothing else may run meanwhile.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from mt4ssl_bench import threads

SPINS = "300000"  # libgomp's default
LAYERS, DIM = 5, 192  # of mt4ssl_tiny
UPDATES = {"asr_tiny": 20, "phoneme_tiny": 80, "mt4ssl_tiny": 30}
TRAIN, VALID = 128, 32  # utterances
BUSY = "while True: pass"


def environment(policy: str) -> dict[str, str]:
    """Return a policy's environment; "openmp" sets its defaults, which ours does not change."""
    names = (*threads.COUNTS, *threads.WAITS)
    clean = {name: value for name, value in os.environ.items() if name not in names}
    if policy == "ours":
        return clean
    every = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    return clean | every | {"GOMP_SPINCOUNT": SPINS}


class Heads:
    """A process that trains the heads of one task under one policy, as often as it is asked."""

    def __init__(self, recipe: str, corpus: Path, policy: str) -> None:
        command = [sys.executable, __file__, str(corpus), "--worker", recipe]
        self.process = subprocess.Popen(
            command,
            env=environment(policy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds()  # pages and checksums are read once

    def seconds(self) -> float:
        """Return the wall time of one update."""
        print("again", file=self.process.stdin, flush=True)
        return float(next(self.process.stdout or iter(())))

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)


def recompute(name: str) -> NoReturn:
    """Refuse: these features are whole."""
    raise ValueError(name)


def work(recipe: str, path: Path) -> None:
    """Train the heads for each line of stdin and print the seconds of one update."""
    threads.configure()  # before torch loads
    import numpy as np

    from mt4ssl_bench.data.corpus import Corpus
    from mt4ssl_bench.downstream.plan import plan
    from mt4ssl_bench.downstream.training import sweep
    from mt4ssl_bench.downstream.training.sweep import Split, Sweep
    from mt4ssl_bench.features.file import StoredFeatures, Writer
    from mt4ssl_bench.features.index import Header

    if os.environ["GOMP_SPINCOUNT"] == SPINS:  # "openmp": heads in turn, on all threads
        sweep.serial = lambda head: False  # noqa: ARG005
    updates = UPDATES[recipe]
    corpus = Corpus.open(path)
    job = plan(recipe, corpus, [f"steps={updates}", f"validate_every={updates}"])
    task, splits, rng = job.kind(job.config), [], np.random.default_rng(0)
    task.fit_units(job.cuts("train"))
    with tempfile.TemporaryDirectory() as folder:
        for role, count in (("train", TRAIN), ("valid", VALID)):
            cuts = job.cuts(role)[:count]
            header = Header(
                upstream="noise", fingerprint="", corpus="", digest="", split=role, kind="frames",
                utterances=len(cuts), hours=0.0, precision="fp16", layers=LAYERS, dim=DIM,
            )  # fmt: skip
            rows = (
                [(cut.id, rng.standard_normal((LAYERS, int(50 * cut.duration), DIM), np.float32))]
                for cut in cuts
            )
            file = Path(folder) / f"{role}.bin"
            Writer(file, header).write(rows)
            features = StoredFeatures(file, recompute)
            splits.append(Split(cuts, features, pooled=False, device="cpu"))
        for _ in sys.stdin:
            began = time.perf_counter()
            Sweep(task, LAYERS, DIM, device="cpu", title=recipe).run(*splits)
            print((time.perf_counter() - began) / updates, flush=True)


class Pretraining:
    """Runs of the command line under one policy; labels are made before any is timed."""

    def __init__(self, recipe: str, corpus: Path, policy: str) -> None:
        self.recipe, self.corpus, self.environment = recipe, corpus, environment(policy)
        self.updates = 1
        self.seconds()
        self.updates = UPDATES[recipe]

    def seconds(self) -> float:
        """Return the wall time of one update, the first five not counted."""
        with tempfile.TemporaryDirectory() as folder:
            keys = [f"data.corpus={self.corpus}", f"fit.steps={self.updates}", "fit.log_every=5"]
            keys += ["fit.validate_every=1000000", "fit.save_every=1000000", "data.workers=0"]
            command = [sys.executable, "-m", "mt4ssl_bench", "pretrain", self.recipe, *keys]
            subprocess.run(
                [*command, "--device", "cpu", "--out", folder],
                check=True,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            log = (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        speeds = [
            line["audio_seconds_per_second"]
            for line in map(json.loads, log)
            if "audio_seconds_per_second" in line and (line["step"] > 5 or self.updates == 1)
        ]
        return 16 * statistics.mean(1 / speed for speed in speeds)  # batches of 16 s

    def close(self) -> None:
        """Nothing runs between two runs."""


@contextlib.contextmanager
def company(busy: bool) -> Iterator[None]:  # noqa: FBT001
    """Keep a process busy on one core."""
    process = subprocess.Popen([sys.executable, "-c", BUSY if busy else ""])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def show(times: list[float], base: list[float]) -> str:
    """Return a median, its range, and the ratio of medians."""
    ratio = statistics.median(times) / statistics.median(base)
    middle = 1e3 * statistics.median(times)
    return f"{middle:.0f} ms [{1e3 * min(times):.0f}, {1e3 * max(times):.0f}], ratio {ratio:.2f}"


def compare(recipe: str, corpus: Path, repeats: int) -> None:
    """Time a case under its policies, with and without company, and print it."""
    kind = Pretraining if recipe.startswith("mt4ssl") else Heads
    jobs = {policy: kind(recipe, corpus, policy) for policy in ("openmp", "ours")}
    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(repeats):
        for busy in (False, True):
            with company(busy):
                for policy, job in jobs.items():
                    times.setdefault((policy, busy), []).append(job.seconds())
    for job in jobs.values():
        job.close()
    print(f"{recipe}, ms per update")
    for policy in jobs:
        free, beside = times[policy, False], times[policy, True]
        print(f"  {policy}: free {show(free, times['openmp', False])} to openmp")
        print(f"  {policy}: beside a busy process {show(beside, free)} to free", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(UPDATES))
    parser.add_argument("--worker", default="")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.corpus)
        return
    for recipe in arguments.cases:
        compare(recipe, arguments.corpus, arguments.repeats)


if __name__ == "__main__":
    main()
