"""The cost of the pretraining monitors: label counts and the rank of the targets, per update.

    python benchmarks/monitors.py [tiny base ...] [--updates 20]

Runs the updates of a recipe on random audio and labels, on the CPU, and prints the operations and
the processor time of an update, of the monitors in each update, and of the monitors in a line of
the log; and the share of both in a logging interval (fit.log_every). The limit is 1 %.
"""

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from mt4ssl_bench.data.frame_grid import frame_count
from mt4ssl_bench.training.distributed import ALONE
from mt4ssl_bench.training.monitors import FRAMES, TargetStatistics
from mt4ssl_bench.upstream.batches import Batch
from mt4ssl_bench.upstream.pretrain import Pretraining, build_model
from mt4ssl_bench.upstream.recipe import load_config

SECONDS = {"base": (2, 10.0), "small": (4, 10.0)}  # utterances, seconds of each; others: (4, 4)


def measure(size: str, updates: int) -> None:
    config = load_config(f"mt4ssl_{size}", ["fit.compile=false"])
    count, seconds = SECONDS.get(size, (4, 4.0))
    samples = round(seconds * 16_000)
    frames = frame_count(samples)
    labels = torch.randint(config.targets.offline.clusters, (count, frames))
    names = [str(number) for number in range(count)]
    waves = torch.randn(count, samples)
    batch = Batch(waves, torch.full((count,), samples), labels, names)
    job = Pretraining(config, build_model(config, "cpu").train(), None, None, "")  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        job.loss(batch, 0, 0).total.backward()  # type: ignore[no-untyped-call]
    job.statistics.take(ALONE)

    spent = {"update": 0.0, "count": 0.0, "line": 0.0}
    for step in range(updates):
        seed, clones = (0, step, 0), config.masking.clones
        began = time.process_time()
        losses = job.forward(job.net, batch, seed, clones, TargetStatistics())
        job.model.total(losses).backward()  # type: ignore[no-untyped-call]
        spent["update"] += time.process_time() - began
        began = time.process_time()
        job.statistics.add(losses.targets["offline"], losses.targets)
        spent["count"] += time.process_time() - began
        began = time.process_time()
        job.statistics.take(ALONE)
        spent["line"] += time.process_time() - began
    update, counting, line = (1000 * value / updates for value in spent.values())
    every, dim = config.fit.log_every, config.encoder.dim
    rows = min(FRAMES, len(losses.hidden))
    work = 2 * rows * dim**2 + 9 * dim**3  # the Gram matrix and its eigenvalues, in float64
    print(
        f"mt4ssl_{size}, {count} x {seconds:g} s: forward and backward {update:.1f} ms, "
        f"{counter.get_total_flops() / 1e9:.1f} GFLOP; monitors {counting:.3f} ms an update and "
        f"{line:.1f} ms, {work / 1e9:.2f} GFLOP a line; in {every} updates "
        f"{(counting * every + line) / (update * every):.3%} of the time, "
        f"{work / (counter.get_total_flops() * every):.4%} of the operations"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["tiny"], help="mt4ssl_<size>")
    parser.add_argument("--updates", type=int, default=20)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        measure(size, arguments.updates)


if __name__ == "__main__":
    main()
