"""An evaluation in several processes against the same one in one process, in pairs.

    python benchmarks/workers.py CORPUS [--upstream random:mt4ssl_tiny] [--task asr_tiny]
        [--workers 2] [--repeats 3] [KEY=VALUE]...

Runs `mt4ssl-bench evaluate` from nothing: "one" in one process that has all CPU threads, "workers"
in several that divide them, "default" without --workers. In each round the order is reversed. The
default keys are four learning rates. Prints the wall time of each, the median ratios to "one", and
whether the answers and scores are the same bits: they are for equal numbers of threads, which
"single" adds (one process of one thread). Nothing else may run meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mt4ssl_bench.threads import COUNTS

RATES = "sweep=[1e-2,3e-3,1e-3,3e-4]"


def evaluate(options: argparse.Namespace, case: str, out: Path) -> float:
    """Evaluate into `out`; return the wall seconds of the command."""
    flags = {"one": ["--workers", "1"], "single": ["--workers", "1"], "default": []}
    count = flags.get(case, ["--workers", str(options.workers)])
    environment = {name: value for name, value in os.environ.items() if name not in COUNTS}
    if case == "single":
        environment["OMP_NUM_THREADS"] = "1"
    where = ["--task", options.task, "--corpus", str(options.corpus), "--device", "cpu"]
    command = [sys.executable, "-m", "mt4ssl_bench", "evaluate", options.upstream, *where, *count]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--out", str(out), RATES, *options.keys],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def outcome(out: Path) -> tuple[object, ...]:
    """Return what must be equal: scores, sweep, weights and answers."""
    (path,) = out.glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    answers = path.with_suffix(".hyp.jsonl").read_text(encoding="utf-8")
    return record["metrics"], record["sweep"], record["layer_weights"], answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--upstream", default="random:mt4ssl_tiny")
    parser.add_argument("--task", default="asr_tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cases = ["one", "workers", "default", "single"]
    times: dict[str, list[float]] = {case: [] for case in cases}
    found: dict[str, tuple[object, ...]] = {}
    for number in range(options.repeats):
        for case in cases if number % 2 == 0 else cases[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                times[case].append(evaluate(options, case, Path(folder)))
                found[case] = outcome(Path(folder))
            print(f"round {number}, {case}: {times[case][-1]:.1f} s", flush=True)
    for case in cases[1:]:
        ratios = [ours / one for ours, one in zip(times[case], times["one"], strict=True)]
        shown = f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"{case}: {shown} x one process")
    print(f"workers and single, the same bits: {found['workers'] == found['single']}")


if __name__ == "__main__":
    main()
